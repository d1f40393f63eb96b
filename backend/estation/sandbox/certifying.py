"""Certificates of the sandbox's own making, and Alipay's way of numbering them."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

FIVE_YEARS = timedelta(days=5 * 365)
_RSA_SIGNATURES = "1.2.840.113549.1.1."
_SHORT = {
    NameOID.COMMON_NAME: "CN",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.COUNTRY_NAME: "C",
}


def name_of(common: str, *, unit: str = "", organisation: str = "") -> x509.Name:
    """In certificate order: C, O, OU, CN; only CN when no organisation is given."""
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organisation:
        parts = [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            *parts,
        ]
    return x509.Name(parts)


def certificate(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    *,
    subject: x509.Name,
    issuer: x509.Name,
    signed_by: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    serial: int | None = None,
    may_issue: bool = False,
) -> bytes:
    """PEM, valid from yesterday for five years."""
    start = datetime.now(UTC) - timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + FIVE_YEARS)
        .add_extension(x509.BasicConstraints(ca=may_issue, path_length=None), critical=True)
        .sign(signed_by, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def elliptic_root() -> bytes:
    """A root that is no RSA root: its number belongs into nobody's alipay_root_cert_sn."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = name_of("Sandbox Payment Root E1", unit="Root", organisation="Sandbox Financial")
    return certificate(key.public_key(), subject=name, issuer=name, signed_by=key, may_issue=True)


def first(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pem.encode())[0]


def cert_sn(made: x509.Certificate) -> str:
    """Alipay's number of a certificate: md5 of the issuer, CN first, and the decimal serial."""
    parts = reversed(list(made.issuer))
    issuer = ",".join(f"{_SHORT[part.oid]}={part.value!s}" for part in parts)
    return hashlib.md5(f"{issuer}{made.serial_number}".encode()).hexdigest()  # noqa: S324 -- theirs


def root_cert_sn(pem: str) -> str:
    """The numbers of all RSA-signed roots, joined by `_`."""
    return "_".join(
        cert_sn(root)
        for root in x509.load_pem_x509_certificates(pem.encode())
        if root.signature_algorithm_oid.dotted_string.startswith(_RSA_SIGNATURES)
    )


def packed(pem: str) -> str:
    """As alipay.open.app.alipaycert.download gives it: base64 of the PEM text."""
    return base64.b64encode(pem.encode()).decode()
