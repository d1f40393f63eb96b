"""The keys of everybody outside, made once, and what a merchant gets of them."""

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from estation.sandbox import world

_PRIVATE_KEYS = (
    "wechat_merchant",  # the merchant's API certificate key
    "wechat_platform",  # behind the WeChat Pay public key
    "wechat_certificate",  # behind the platform certificate (the old kind)
    "alipay_merchant",
    "alipay_platform",
    "stranger",  # signs what nobody may believe
)


@dataclass(frozen=True)
class KeyRing:
    """All keys, read from `folder`; `make_keys` has filled it."""

    folder: Path

    def private(self, name: str) -> rsa.RSAPrivateKey:
        return self._loaded[name]

    @cached_property
    def _loaded(self) -> dict[str, rsa.RSAPrivateKey]:
        return {name: self._load(name) for name in _PRIVATE_KEYS}

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

    @cached_property
    def api_v3_key(self) -> bytes:
        """32 ASCII bytes."""
        return (self.folder / "api_v3.key").read_bytes()

    @cached_property
    def app_secret(self) -> str:
        return (self.folder / "app_secret").read_text()

    def certificate_pem(self, name: str) -> str:
        return (self.folder / f"{name}.crt").read_text()

    @cached_property
    def platform_certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate_pem("wechat_certificate").encode())

    @cached_property
    def platform_certificate_serial(self) -> str:
        """40 hex digits, upper case."""
        return f"{self.platform_certificate.serial_number:040X}"


def make_keys(data: Path) -> KeyRing:
    """The key ring in `data/keys`, made at the first call; safe to call from two processes."""
    folder = data / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    ring = KeyRing(folder)
    with _only_one(folder / ".lock"):
        for name in _PRIVATE_KEYS:
            if not (folder / f"{name}.pem").exists():
                _write(folder / f"{name}.pem", _new_private_pem())
        for name in ("api_v3.key", "app_secret"):
            if not (folder / name).exists():
                _write(folder / name, secrets.token_hex(16).encode())
        _certify(ring, "wechat_merchant", int(world.MERCHANT_SERIAL, 16))
        _certify(ring, "wechat_certificate", secrets.randbits(154) | 1 << 154)
    return ring


def write_credentials(data: Path, base_url: str) -> dict[str, Any]:
    """Make what is missing in `data` and return all that a merchant's program needs.

    `base_url` is where the sandbox listens, without a trailing slash. Keys are PEM text.
    """
    ring = make_keys(data)
    base_url = base_url.rstrip("/")
    return {
        "base_url": base_url,
        "wechat_pay": _wechat_pay(ring, base_url),
        "alipay": _alipay(ring, base_url),
        "wechat": {
            "api_url": f"{base_url}/wechat",
            "oauth_url": f"{base_url}/wechat",
            "appid": world.APPID,
            "secret": ring.app_secret,
        },
        "sms": {"send_url": f"{base_url}/sms/send", "page_url": f"{base_url}/sms"},
        "control_url": f"{base_url}/control",
        "personas": [asdict(one) for one in world.PERSONAS],
    }


def _wechat_pay(ring: KeyRing, base_url: str) -> dict[str, str]:
    return {
        "base_url": f"{base_url}/wechat-pay",
        "mchid": world.MCHID,
        "appid": world.APPID,
        "merchant_serial": world.MERCHANT_SERIAL,
        "merchant_private_key": ring.private_pem("wechat_merchant"),
        "merchant_certificate": ring.certificate_pem("wechat_merchant"),
        "api_v3_key": ring.api_v3_key.decode(),
        "public_key_id": world.PUBLIC_KEY_ID,
        "public_key": ring.public_pem("wechat_platform"),
        "platform_certificate_serial": ring.platform_certificate_serial,
        "platform_certificate": ring.certificate_pem("wechat_certificate"),
    }


def _alipay(ring: KeyRing, base_url: str) -> dict[str, str]:
    return {
        "gateway_url": f"{base_url}/alipay/gateway.do",
        "app_id": world.ALIPAY_APP_ID,
        "seller_id": world.ALIPAY_SELLER_ID,
        "app_private_key": ring.private_pem("alipay_merchant"),
        "app_private_key_pkcs1": ring.private_pem("alipay_merchant", pkcs1=True),
        "alipay_public_key": ring.public_pem("alipay_platform"),
    }


def export_secrets(data: Path, secrets_dir: Path) -> None:
    """Write the merchant's secret files as config/local.toml names them."""
    ring = make_keys(data)
    files = {
        "wechat_pay/merchant_key.pem": ring.private_pem("wechat_merchant").encode(),
        "wechat_pay/api_v3.key": ring.api_v3_key,
        "wechat_pay/platform_public_key.pem": ring.public_pem("wechat_platform").encode(),
        "alipay/merchant_key.pem": ring.private_pem("alipay_merchant").encode(),
        "alipay/alipay_public_key.pem": ring.public_pem("alipay_platform").encode(),
        "wechat/app_secret": ring.app_secret.encode(),
    }
    for name, content in files.items():
        path = secrets_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, content)


def _new_private_pem() -> bytes:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certify(ring: KeyRing, name: str, serial: int) -> None:
    """A self-signed certificate for a key of ours, five years long as WeChat Pay's are."""
    path = ring.folder / f"{name}.crt"
    if path.exists():
        return
    key = ring.private(name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name.replace("_", "-"))])
    start = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=5 * 365))
        .sign(key, hashes.SHA256())
    )
    _write(path, certificate.public_bytes(serialization.Encoding.PEM))


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, readable by its owner only."""
    waiting = path.with_name(f".{path.name}.new")
    waiting.write_bytes(content)
    waiting.chmod(0o600)
    waiting.replace(path)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
