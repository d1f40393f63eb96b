"""Which of its keys WeChat Pay signs with: the gray switch between certificate and public key,
the old and new generation of each while it is rotated, and the commercial cryptography."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from estation.sandbox import shangmi
from estation.sandbox.keys import KeyRing, generation_name, platform_serial, public_key_id
from estation.sandbox.store import Store

MODES = ("public_key", "certificate", "mixed")
_SETTING = "wechat_pay_keys"
_CERTIFICATE, _PUBLIC_KEY = "wechat_certificate", "wechat_public_key"


ALGORITHMS = ("rsa", "sm2")
_ALGORITHM = "wechat_pay_algorithm"
SCHEME = "WECHATPAY2-SHA256-RSA2048"


@dataclass(frozen=True, slots=True)
class Signer:
    """`strange` signs as somebody nobody has heard of would."""

    serial: str
    scheme: str
    sign: Callable[[bytes], str]
    strange: Callable[[bytes], str]

    @property
    def is_certificate(self) -> bool:
        return not self.serial.startswith("PUB_KEY_ID_")


def rsa_sign(key: rsa.RSAPrivateKey, message: bytes) -> str:
    return base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()


def algorithm(store: Store) -> str:
    """What notices are signed and sealed with; answers follow the request."""
    return str(store.setting(_ALGORITHM, "rsa"))


def set_algorithm(store: Store, value: str) -> None:
    if value not in ALGORITHMS or (value == "sm2" and not shangmi.is_available()):
        raise ValueError(value)
    store.set_setting(_ALGORITHM, value)


def sm_signer(keys: KeyRing) -> Signer:
    key = shangmi.platform_key(keys.folder)
    return Signer(key.serial, shangmi.SCHEME, key.sign, shangmi.stranger_sign)


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


def answer_signer(store: Store, keys: KeyRing, asked_serial: str, *, in_sm: bool) -> Signer:
    """In the cryptography the request was signed in. Its Wechatpay-Serial chooses the kind, and
    the generation too while both sign; without one the merchant's mode chooses, and the
    generations take turns."""
    if in_sm:
        return sm_signer(keys)
    for what in (_PUBLIC_KEY, _CERTIFICATE):
        generation = serials(keys, what).get(asked_serial)
        if generation is not None:
            both = keys.slot(what).answers == "both"
            return _signer(keys, what, generation if both else keys.signer(what, "answers"))
    what = _CERTIFICATE if has_certificates(store) else _PUBLIC_KEY
    return _signer(keys, what, keys.signer(what, "answers"))


def notice_signer(store: Store, keys: KeyRing, notice_id: str) -> Signer:
    if algorithm(store) == "sm2":
        return sm_signer(keys)
    chosen = mode(store)
    by_certificate = chosen == "certificate" or (chosen == "mixed" and notice_id[0] in "01234567")
    what = _CERTIFICATE if by_certificate else _PUBLIC_KEY
    return _signer(keys, what, keys.signer(what, "notices"))


def _signer(keys: KeyRing, what: str, generation: int) -> Signer:
    named = platform_serial if what == _CERTIFICATE else _key_id
    return Signer(
        named(keys, generation),
        SCHEME,
        partial(rsa_sign, keys.private(generation_name(what, generation))),
        partial(rsa_sign, keys.private("stranger")),
    )


def decrypting_key(keys: KeyRing, serial: str) -> rsa.RSAPrivateKey | None:
    """What opens fields that a merchant sealed for the key `serial` names; None when unknown."""
    for what in (_PUBLIC_KEY, _CERTIFICATE):
        generation = serials(keys, what).get(serial)
        if generation is not None:
            return keys.private(generation_name(what, generation))
    return None
