"""WeChat Pay's platform certificates, made for the tests."""

import functools
import hashlib
import json
from datetime import timedelta

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tests.outside.counterparts import API_V3_KEY, NOW, key, sealed, wechat_signature


@functools.cache
def certificate(name: str, *, days: int = 365) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tenpay.com sign")])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key(name).public_key())
        .serial_number(int(serial_of(name), 16))
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(key(name), hashes.SHA256())
    )


def serial_of(name: str) -> str:
    """Forty characters as WeChat Pay's; one certificate for each name."""
    return "5F" + hashlib.sha256(name.encode()).hexdigest()[:38].upper()


def certificate_answer(
    *names: str, api_v3_key: bytes = API_V3_KEY, days: int = 365
) -> web.Response:
    """The answer of GET /v3/certificates, signed by the first certificate that it carries."""
    items = [
        {
            "serial_no": serial_of(name),
            "effective_time": "2026-02-28T10:00:00+08:00",
            "expire_time": "2027-03-01T10:00:00+08:00",
            "encrypt_certificate": sealed(
                certificate(name, days=days).public_bytes(serialization.Encoding.PEM),
                api_v3_key=api_v3_key,
                aad="certificate",
            ),
        }
        for name in names
    ]
    body = json.dumps({"data": items}).encode()
    headers = wechat_signature(body, serial=serial_of(names[0]), signer=names[0])
    return web.Response(body=body, headers=headers)
