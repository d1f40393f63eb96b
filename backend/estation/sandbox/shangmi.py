"""WeChat Pay's commercial cryptography (国密): SM2 signatures with SM3, SM4-GCM instead of AES.

SM3 and SM4 come with `cryptography`; SM2 needs the wheel `gmssl-pyx`, without which none of this
is offered. `cryptography` cannot write SM2 certificates, so their DER is written out here.
Source: https://pay.weixin.qq.com/docs/partner/development/shangmi/guide.html
"""

import base64
import importlib
import importlib.util
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from estation.sandbox import world
from estation.sandbox.certifying import FIVE_YEARS
from estation.sandbox.secret_files import write_secret

SCHEME = "WECHATPAY2-SM2-WITH-SM3"
SEALING = "AEAD_SM4_GCM"
PLATFORM = "wechat_certificate_sm2"

_CURVE = bytes.fromhex("06082a811ccf5501822d")  # 1.2.156.10197.1.301
_SM2_WITH_SM3 = bytes.fromhex("06082a811ccf55018375")  # 1.2.156.10197.1.501
_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")
_COMMON_NAME = bytes.fromhex("0603550403")
_SEQUENCE, _SET, _BITS, _OCTETS, _UTF8, _TIME = 0x30, 0x31, 0x03, 0x04, 0x0C, 0x17


def is_available() -> bool:
    return importlib.util.find_spec("gmssl_pyx") is not None


def _gmssl() -> ModuleType:
    # At use only: the sandbox runs without it.
    return importlib.import_module("gmssl_pyx")


@dataclass(frozen=True, slots=True)
class Sm2Key:
    """`serial` is that of the certificate: 40 hex digits, upper case."""

    private: bytes = field(repr=False)
    point: bytes
    serial: str
    certificate: str

    def sign(self, message: bytes) -> str:
        """Base64 of the DER of (r, s); the signer's id is the standard's default."""
        return base64.b64encode(_gmssl().sm2_sign(self.private, self.point, message)).decode()

    def verified(self, message: bytes, signature: str) -> bool:
        try:
            raw = base64.b64decode(signature, validate=True)
            return bool(_gmssl().sm2_verify(self.point, message, raw))
        except Exception:
            # The wheel raises exceptions of its own for what is no DER or no point.
            return False

    def opens(self, sealed: bytes) -> bool:
        """Whether this was sealed for us (SM2, C1C3C2 in DER)."""
        try:
            _gmssl().sm2_decrypt(self.private, sealed)
        except Exception:
            return False
        return True

    @property
    def private_pem(self) -> str:
        """PKCS#8 with the public point."""
        inner = _tlv(
            _SEQUENCE,
            _integer(1),
            _tlv(_OCTETS, self.private),
            _tlv(0xA1, _tlv(_BITS, b"\0\x04", self.point)),
        )
        algorithm = _tlv(_SEQUENCE, _EC_PUBLIC_KEY, _CURVE)
        return _pem("PRIVATE KEY", _tlv(_SEQUENCE, _integer(0), algorithm, _tlv(_OCTETS, inner)))


def stranger_sign(message: bytes) -> str:
    """By a key nobody has heard of."""
    point, private = _gmssl().sm2_key_generate()
    return base64.b64encode(_gmssl().sm2_sign(private, point, message)).decode()


def make_keys(folder: Path) -> None:
    """What is missing: each merchant's second API certificate, and the platform's."""
    for merchant in world.MERCHANTS:
        _make(folder, _name(merchant), merchant.sm_serial)
    _make(folder, PLATFORM, f"{secrets.randbits(158) | 1 << 158:040X}")


def merchant_key(folder: Path, merchant: world.Merchant) -> Sm2Key:
    return _read(folder, _name(merchant))


def platform_key(folder: Path) -> Sm2Key:
    return _read(folder, PLATFORM)


def _name(merchant: world.Merchant) -> str:
    return f"{merchant.key_name}_sm2"


def _make(folder: Path, name: str, serial: str) -> None:
    path = folder / f"{name}.json"
    if path.exists():
        return
    point, private = _gmssl().sm2_key_generate()
    made = {
        "private": private.hex(),
        "point": point.hex(),
        "serial": serial,
        "certificate": _certificate(private, point, serial, name.replace("_", "-")),
    }
    write_secret(path, json.dumps(made).encode())


def _read(folder: Path, name: str) -> Sm2Key:
    kept = json.loads((folder / f"{name}.json").read_text())
    return Sm2Key(
        bytes.fromhex(kept["private"]),
        bytes.fromhex(kept["point"]),
        kept["serial"],
        kept["certificate"],
    )


def _certificate(private: bytes, point: bytes, serial: str, name: str) -> str:
    start = datetime.now(UTC) - timedelta(days=1)
    algorithm = _tlv(_SEQUENCE, _SM2_WITH_SM3)
    common = _tlv(_SEQUENCE, _COMMON_NAME, _tlv(_UTF8, name.encode()))
    whose = _tlv(_SEQUENCE, _tlv(_SET, common))
    key = _tlv(
        _SEQUENCE,
        _tlv(_SEQUENCE, _EC_PUBLIC_KEY, _CURVE),
        _tlv(_BITS, b"\0\x04", point),
    )
    content = _tlv(
        _SEQUENCE,
        _tlv(0xA0, _integer(2)),
        _integer(int(serial, 16)),
        algorithm,
        whose,
        _tlv(_SEQUENCE, _moment(start), _moment(start + FIVE_YEARS)),
        whose,
        key,
    )
    signature = _gmssl().sm2_sign(private, point, content)
    return _pem("CERTIFICATE", _tlv(_SEQUENCE, content, algorithm, _tlv(_BITS, b"\0", signature)))


def _tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _moment(moment: datetime) -> bytes:
    return _tlv(_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())


def _pem(label: str, der: bytes) -> str:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n"


def sm4_seal(api_v3_key: bytes, nonce: bytes, text: bytes, associated_data: bytes) -> bytes:
    """SM4-GCM, tag at the end; the key is the first half of the APIv3 key's SM3 digest."""
    digest = hashes.Hash(hashes.SM3())
    digest.update(api_v3_key)
    sealing = Cipher(algorithms.SM4(digest.finalize()[:16]), modes.GCM(nonce)).encryptor()
    sealing.authenticate_additional_data(associated_data)
    return sealing.update(text) + sealing.finalize() + sealing.tag
