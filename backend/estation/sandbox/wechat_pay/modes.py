"""Which of its two keys WeChat Pay signs with: the gray switch between certificate and key."""

from estation.sandbox import world
from estation.sandbox.credentials import KeyRing
from estation.sandbox.store import Store

MODES = ("public_key", "certificate", "mixed")
_SETTING = "wechat_pay_keys"


def mode(store: Store) -> str:
    """public_key: the only mode of new merchants. certificate: the old one. mixed: callbacks
    come in both kinds, as during WeChat's seven-day switch."""
    return str(store.setting(_SETTING, "public_key"))


def set_mode(store: Store, value: str) -> None:
    if value not in MODES:
        raise ValueError(value)
    store.set_setting(_SETTING, value)


def has_certificates(store: Store) -> bool:
    return mode(store) != "public_key"


def answer_with_certificate(store: Store, keys: KeyRing, asked_serial: str) -> bool:
    """The request's Wechatpay-Serial chooses; without one, the merchant's mode does."""
    if asked_serial == world.PUBLIC_KEY_ID:
        return False
    if asked_serial == keys.platform_certificate_serial:
        return True
    return has_certificates(store)


def notice_with_certificate(store: Store, notice_id: str) -> bool:
    chosen = mode(store)
    return chosen == "certificate" or (chosen == "mixed" and notice_id[0] in "01234567")
