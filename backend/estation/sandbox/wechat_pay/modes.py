"""Which of its keys WeChat Pay signs with: the gray switch between certificate and public key,
and the old and new generation of each while it is rotated."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import rsa

from estation.sandbox.keys import KeyRing, generation_name, platform_serial, public_key_id
from estation.sandbox.store import Store

MODES = ("public_key", "certificate", "mixed")
_SETTING = "wechat_pay_keys"
_CERTIFICATE, _PUBLIC_KEY = "wechat_certificate", "wechat_public_key"


@dataclass(frozen=True, slots=True)
class Signer:
    serial: str
    key: rsa.RSAPrivateKey

    @property
    def is_certificate(self) -> bool:
        return not self.serial.startswith("PUB_KEY_ID_")


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


def serials(keys: KeyRing, what: str) -> dict[str, int]:
    """The living generations by the text that names them in Wechatpay-Serial, newest first."""
    named = platform_serial if what == _CERTIFICATE else _key_id
    return {named(keys, one): one for one in reversed(keys.slot(what).alive)}


def _key_id(_: KeyRing, generation: int) -> str:
    return public_key_id(generation)


def answer_signer(store: Store, keys: KeyRing, asked_serial: str) -> Signer:
    """The request's Wechatpay-Serial chooses the kind, and the generation too while both sign;
    without one the merchant's mode chooses, and the generations take turns."""
    for what in (_PUBLIC_KEY, _CERTIFICATE):
        generation = serials(keys, what).get(asked_serial)
        if generation is not None:
            both = keys.slot(what).answers == "both"
            return _signer(keys, what, generation if both else keys.signer(what, "answers"))
    what = _CERTIFICATE if has_certificates(store) else _PUBLIC_KEY
    return _signer(keys, what, keys.signer(what, "answers"))


def notice_signer(store: Store, keys: KeyRing, notice_id: str) -> Signer:
    chosen = mode(store)
    by_certificate = chosen == "certificate" or (chosen == "mixed" and notice_id[0] in "01234567")
    what = _CERTIFICATE if by_certificate else _PUBLIC_KEY
    return _signer(keys, what, keys.signer(what, "notices"))


def _signer(keys: KeyRing, what: str, generation: int) -> Signer:
    named = platform_serial if what == _CERTIFICATE else _key_id
    return Signer(named(keys, generation), keys.private(generation_name(what, generation)))


def decrypting_key(keys: KeyRing, serial: str) -> rsa.RSAPrivateKey | None:
    """What opens fields that a merchant sealed for the key `serial` names; None when unknown."""
    for what in (_PUBLIC_KEY, _CERTIFICATE):
        generation = serials(keys, what).get(serial)
        if generation is not None:
            return keys.private(generation_name(what, generation))
    return None
