"""WeChat Pay's platform certificates, made for the tests."""

import functools
import json
from datetime import timedelta

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tests.outside.counterparts import API_V3_KEY, NOW, key, sealed, wechat_signature


@functools.cache
def _certificate(name: str) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tenpay.com sign")])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key(name).public_key())
        .serial_number(0x5F9A3C2E7B1D4860A2C4E6F8091B3D5F7A9C1E30)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=365))
        .sign(key(name), hashes.SHA256())
    )


def serial_of(name: str) -> str:
    return format(_certificate(name).serial_number, "040X")


def certificate_answer(name: str, *, api_v3_key: bytes = API_V3_KEY) -> web.Response:
    """The answer of GET /v3/certificates, signed by the certificate it carries."""
    pem = _certificate(name).public_bytes(serialization.Encoding.PEM)
    item = {
        "serial_no": serial_of(name),
        "effective_time": "2026-02-28T10:00:00+08:00",
        "expire_time": "2027-03-01T10:00:00+08:00",
        "encrypt_certificate": sealed(pem, api_v3_key=api_v3_key, aad="certificate"),
    }
    body = json.dumps({"data": [item]}).encode()
    headers = wechat_signature(body, serial=serial_of(name), signer=name)
    return web.Response(body=body, headers=headers)
