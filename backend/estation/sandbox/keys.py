"""The keys of everybody outside: made once, kept in a folder, renewed by rotation."""

import itertools
import json
import secrets
import string
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from estation.sandbox import certifying, shangmi, world
from estation.sandbox.certifying import name_of
from estation.sandbox.secret_files import only_one, write_secret

ROTATING = {
    "wechat_certificate": "wechat_certificate",  # the platform certificate (the old kind)
    "wechat_public_key": "wechat_platform",  # the key behind the WeChat Pay public key
    "alipay_certificate": "alipay_leaf",  # Alipay's certificate for certificate mode
    "alipay_key": "alipay_platform",  # Alipay's key for key mode
}
"""What can be rotated, and the file its first generation lives in."""
SIGNERS = ("old", "both", "new")
PURPOSES = ("answers", "notices")

_PRIVATE_KEYS = (
    *(merchant.key_name for merchant in world.MERCHANTS),
    *(app.key_name for app in world.ALIPAY_APPS),
    *ROTATING.values(),
    *("alipay_root", "alipay_intermediate"),
    "stranger",  # signs what nobody may believe
)
_SECRETS = (
    *(merchant.api_v3_name for merchant in world.MERCHANTS),
    *("app_secret", "mini_secret", "message_token"),
)
_AES_KEY_ALPHABET = string.ascii_letters + string.digits
_ROOT_NAME = name_of("Sandbox Payment Root R1", unit="Root", organisation="Sandbox Financial")
_INTERMEDIATE_NAME = name_of(
    "Sandbox Payment Class 1 R1", unit="Certification Authority", organisation="Sandbox Financial"
)


@dataclass(frozen=True, slots=True)
class Slot:
    """Which generations of a rotating key live, and who signs with which.

    `answers` and `notices` are "old", "both" (in turn) or "new": they switch separately, as in
    WeChat's gray switch. `old_until` ends the old one by itself (virtual milliseconds).
    """

    newest: int = 1
    oldest: int = 1
    answers: str = "new"
    notices: str = "new"
    old_until: int | None = None

    @property
    def alive(self) -> range:
        return range(self.oldest, self.newest + 1)


class KeyRing:
    """All keys, read from `folder`; `make_keys` has filled it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys: dict[str, rsa.RSAPrivateKey] = {}
        self._certificates: dict[str, x509.Certificate] = {}
        self._turns = {
            (what, purpose): itertools.count() for what in ROTATING for purpose in PURPOSES
        }
        self._slots = self._read_slots()

    def private(self, name: str) -> rsa.RSAPrivateKey:
        if name not in self._keys:
            self._keys[name] = self._load(name)
        return self._keys[name]

    def _load(self, name: str) -> rsa.RSAPrivateKey:
        key = serialization.load_pem_private_key(
            (self.folder / f"{name}.pem").read_bytes(),
            password=None,
            unsafe_skip_rsa_key_validation=True,  # we made it; checking takes 50 ms a key
        )
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError(f"{name}.pem is not an RSA key")
        return key

    def public_pem(self, name: str) -> str:
        return (
            self.private(name)
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def private_pem(self, name: str, *, pkcs1: bool = False) -> str:
        form = (
            serialization.PrivateFormat.TraditionalOpenSSL
            if pkcs1
            else serialization.PrivateFormat.PKCS8
        )
        return (
            self.private(name)
            .private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
            .decode()
        )

    def api_v3_key(self, merchant: world.Merchant) -> bytes:
        """32 ASCII bytes, another for every merchant."""
        return (self.folder / merchant.api_v3_name).read_bytes()

    @cached_property
    def app_secret(self) -> str:
        return (self.folder / "app_secret").read_text()

    @cached_property
    def mini_secret(self) -> str:
        return (self.folder / "mini_secret").read_text()

    @cached_property
    def message_token(self) -> str:
        """The official account's, for its messages."""
        return (self.folder / "message_token").read_text()

    @cached_property
    def encoding_aes_key(self) -> str:
        """43 letters and digits: base64 of 32 bytes without its last character."""
        return (self.folder / "encoding_aes_key").read_text()

    def certificate_pem(self, name: str) -> str:
        """May hold the issuer's certificate after the first one."""
        return (self.folder / f"{name}.crt").read_text()

    def certificate(self, name: str) -> x509.Certificate:
        if name not in self._certificates:
            self._certificates[name] = certifying.first(self.certificate_pem(name))
        return self._certificates[name]

    def slot(self, what: str) -> Slot:
        return self._slots[what]

    def signer(self, what: str, purpose: str) -> int:
        """The generation whose turn it is to sign."""
        slot = self._slots[what]
        choice = slot.answers if purpose == "answers" else slot.notices
        if slot.oldest == slot.newest or choice == "new":
            return slot.newest
        if choice == "old":
            return slot.oldest
        return slot.newest if next(self._turns[what, purpose]) % 2 == 0 else slot.oldest

    def rotate(self, what: str, *, answers: str, notices: str, old_until: int | None) -> Slot:
        """Make a new generation; the old one stays alive until `finish` or `old_until`."""
        _check_signers(answers, notices)
        slot = self._slots[what]
        newest = slot.newest + 1
        name = generation_name(what, newest)
        with only_one(self.folder / ".lock"):
            write_secret(self.folder / f"{name}.pem", _new_private_pem())
            if what in {"wechat_certificate", "alipay_certificate"}:
                _certify(self, what, name)
        return self._keep(what, Slot(newest, slot.newest, answers, notices, old_until))

    def switch(self, what: str, *, answers: str, notices: str) -> Slot:
        """Let answers and notices be signed by others, as far as both generations live."""
        _check_signers(answers, notices)
        return self._keep(what, replace(self._slots[what], answers=answers, notices=notices))

    def finish(self, what: str) -> Slot:
        """The old generation is gone: neither served nor signing."""
        return self._keep(what, Slot(self._slots[what].newest, self._slots[what].newest))

    def expire(self, now_ms: int) -> None:
        """What time does: an old generation past its end is gone."""
        for what, slot in self._slots.items():
            if slot.old_until is not None and slot.old_until <= now_ms:
                self.finish(what)

    def _keep(self, what: str, slot: Slot) -> Slot:
        self._slots = {**self._slots, what: slot}
        kept = {name: asdict(one) for name, one in self._slots.items()}
        write_secret(self.folder / "rotation.json", json.dumps(kept).encode())
        return slot

    def _read_slots(self) -> dict[str, Slot]:
        path = self.folder / "rotation.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        return {what: Slot(**kept.get(what, {})) for what in ROTATING}


def generation_name(what: str, generation: int) -> str:
    """The first generation has the plain file name, later ones a number behind it."""
    first = ROTATING[what]
    return first if generation == 1 else f"{first}.{generation}"


def public_key_id(generation: int) -> str:
    """The PUB_KEY_ID_… that names a generation of the WeChat Pay public key."""
    return world.PUBLIC_KEY_ID if generation == 1 else f"{world.PUBLIC_KEY_ID}{generation:02d}"


def platform_serial(ring: KeyRing, generation: int) -> str:
    """The platform certificate's serial: 40 hex digits, upper case."""
    made = ring.certificate(generation_name("wechat_certificate", generation))
    return f"{made.serial_number:040X}"


def make_keys(data: Path) -> KeyRing:
    """The key ring in `data/keys`, made at the first call; safe to call from two processes."""
    folder = data / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder / ".lock"):
        for name in _PRIVATE_KEYS:
            if not (folder / f"{name}.pem").exists():
                write_secret(folder / f"{name}.pem", _new_private_pem())
        for name in _SECRETS:
            if not (folder / name).exists():
                write_secret(folder / name, secrets.token_hex(16).encode())
        if not (folder / "encoding_aes_key").exists():
            made = "".join(secrets.choice(_AES_KEY_ALPHABET) for _ in range(43))
            write_secret(folder / "encoding_aes_key", made.encode())
        ring = KeyRing(folder)
        _certify_all(ring)
        if shangmi.is_available():
            shangmi.make_keys(folder)
    return ring


def _certify_all(ring: KeyRing) -> None:
    for merchant in world.MERCHANTS:
        _self_signed(ring, merchant.key_name, int(merchant.serial, 16))
    if not (ring.folder / "alipay_root.crt").exists():
        root = ring.private("alipay_root")
        pem = certifying.certificate(
            root.public_key(),
            subject=_ROOT_NAME,
            issuer=_ROOT_NAME,
            signed_by=root,
            may_issue=True,
        )
        # The real file also holds roots of other kinds, which must be skipped.
        write_secret(ring.folder / "alipay_root.crt", pem + certifying.elliptic_root())
    if not (ring.folder / "alipay_intermediate.crt").exists():
        pem = certifying.certificate(
            ring.private("alipay_intermediate").public_key(),
            subject=_INTERMEDIATE_NAME,
            issuer=_ROOT_NAME,
            signed_by=ring.private("alipay_root"),
            may_issue=True,
        )
        write_secret(ring.folder / "alipay_intermediate.crt", pem)
    for what, name in (
        ("wechat_certificate", "wechat_certificate"),
        ("alipay_certificate", "alipay_leaf"),
        ("alipay_app", world.CERTIFICATE_APP.key_name),
    ):
        if not (ring.folder / f"{name}.crt").exists():
            _certify(ring, what, name)


def _certify(ring: KeyRing, what: str, name: str) -> None:
    if what == "wechat_certificate":
        _self_signed(ring, name, secrets.randbits(158) | 1 << 158)
        return
    owner = "支付宝（沙箱）" if what == "alipay_certificate" else world.MERCHANT_NAME
    pem = certifying.certificate(
        ring.private(name).public_key(),
        subject=name_of(
            f"{owner}-{world.ALIPAY_SELLER_ID}", unit="Alipay", organisation="沙箱支付机构"
        ),
        issuer=_INTERMEDIATE_NAME,
        signed_by=ring.private("alipay_intermediate"),
    )
    chain = b"" if what == "alipay_app" else (ring.folder / "alipay_intermediate.crt").read_bytes()
    write_secret(ring.folder / f"{name}.crt", pem + chain)


def _self_signed(ring: KeyRing, name: str, serial: int) -> None:
    path = ring.folder / f"{name}.crt"
    if path.exists():
        return
    key, subject = ring.private(name), name_of(name.replace("_", "-"))
    write_secret(
        path,
        certifying.certificate(
            key.public_key(), subject=subject, issuer=subject, signed_by=key, serial=serial
        ),
    )


def _check_signers(answers: str, notices: str) -> None:
    if answers not in SIGNERS or notices not in SIGNERS:
        raise ValueError("answers and notices are old, both or new")


def _new_private_pem() -> bytes:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
