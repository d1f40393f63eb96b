"""A small Alipay certificate authority for the tests, and an application in certificate mode."""

import base64
import functools
import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from estation.outside.pay_channels import alipay
from estation.outside.pay_channels.alipay import Alipay
from estation.settings import AlipayAccount
from estation.shared.key_files import KeyFiles
from tests.outside.counterparts import NOW, SELLER_ID, VAULT, _no_session, key, private_pem, signed

CERTIFICATE_APP_ID = "2021000000000110"
ALIPAY = f"支付宝(中国)网络技术有限公司-{SELLER_ID}"
MERCHANT = f"{SELLER_ID}-{CERTIFICATE_APP_ID}"
ROOT, ISSUER = "Ant Financial R1 for tests", "Ant Financial Class 2 for tests"


def name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "江城市, 不动产"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Alipay"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


@functools.cache
def certificate(
    holder: str,
    common: str,
    *,
    by: str = "ali_issuer",
    issuer: str = ISSUER,
    may_issue: bool = False,
    days: tuple[int, int] = (-30, 365),
) -> x509.Certificate:
    """`holder` and `by` name keys of the counterparts."""
    return (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(name(issuer))
        .public_key(key(holder).public_key())
        .serial_number(int(hashlib.sha256(f"{holder}{common}{days}".encode()).hexdigest()[:30], 16))
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=may_issue, path_length=None), critical=True)
        .sign(key(by), hashes.SHA256())
    )


def root(holder: str = "ali_root") -> x509.Certificate:
    return certificate(holder, ROOT, by=holder, issuer=ROOT, may_issue=True)


def issuer() -> x509.Certificate:
    return certificate("ali_issuer", ISSUER, by="ali_root", issuer=ROOT, may_issue=True)


def alipays(holder: str = "alipay", **changes: Any) -> x509.Certificate:
    """A certificate of Alipay's own, as the test's name for its key says."""
    return certificate(holder, **{"common": ALIPAY, **changes})


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def sn(certificate: x509.Certificate) -> str:
    """Written from the documentation, not with ours: CN=…,OU=…,O=…,C=…, then the serial. A comma
    inside a value is escaped there."""
    parts = [("CN", ISSUER), ("OU", "Alipay"), ("O", "江城市\\, 不动产"), ("C", "CN")]
    if certificate.issuer == name(ROOT):
        parts[0] = ("CN", ROOT)
    text = ",".join(f"{short}={value}" for short, value in parts)
    return hashlib.md5(f"{text}{certificate.serial_number}".encode()).hexdigest()  # noqa: S324


def secrets() -> dict[str, bytes]:
    return {
        "app_key": private_pem("merchant"),
        "app_cert": pem(certificate("merchant", MERCHANT), issuer()),
        "alipay_cert": pem(alipays(), issuer()),
        # Something in it that cannot be read, as in Alipay's own file.
        "alipay_root": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        + pem(root()),
    }


def certificate_channel(
    session: aiohttp.ClientSession | None = None,
    gateway_url: str = "http://127.0.0.1:9/gateway.do",
    clock: Callable[[], datetime] = lambda: NOW,
    files: KeyFiles | None = None,
) -> Alipay:
    account = AlipayAccount(
        account_id=f"alipay:{CERTIFICATE_APP_ID}",
        name="江城市维修资金专户",
        gateway_url=gateway_url,
        app_id=CERTIFICATE_APP_ID,
        seller_id=SELLER_ID,
        private_key_file="app_key",
        app_cert_file="app_cert",
        alipay_cert_file="alipay_cert",
        alipay_root_cert_file="alipay_root",
        bill_hosts=["127.0.0.1"],
    )
    files = files or KeyFiles(secrets().__getitem__)
    return alipay.from_settings(session or _no_session(), account, files, clock, VAULT)


def certified_answer(
    method: str, node: dict[str, Any], *, signer: str = "alipay", serial: str | None = None
) -> bytes:
    """With alipay_cert_sn between the answer and its signature, as certificate mode has it."""
    text = json.dumps(node, ensure_ascii=False, separators=(",", ":"))
    number = sn(alipays(signer)) if serial is None else serial
    return (
        f'{{"{method.replace(".", "_")}_response":{text},"alipay_cert_sn":"{number}",'
        f'"sign":"{signed(signer, text.encode())}"}}'
    ).encode()


def download_answer(chain: bytes) -> bytes:
    """As Alipay gives a certificate: base64 of the PEM text, and no signature."""
    node = {
        "code": "10000",
        "msg": "Success",
        "alipay_cert_content": base64.b64encode(chain).decode(),
    }
    return f'{{"alipay_open_app_alipaycert_download_response":{json.dumps(node)}}}'.encode()


def write_all(folder: Path, contents: dict[str, bytes]) -> None:
    for file, data in contents.items():
        (folder / file).write_bytes(data)
