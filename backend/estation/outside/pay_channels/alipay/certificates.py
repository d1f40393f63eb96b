"""Alipay's certificates: how it numbers them, and which of them a pinned root vouches for.

Source: Alipay open platform, 公钥证书签名 / 应用支付宝公钥证书下载.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import NameOID

from estation.outside.pay_channels.believing import Disbelief, rsa_key

_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_RSA_SIGNATURES: Final = "1.2.840.113549.1.1."
_DIGESTS: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_MOST_BLOCKS: Final = 16
_MOST_LINKS: Final = 4


@dataclass(frozen=True, slots=True)
class Learned:
    """A downloaded certificate's key; good while its root is pinned and its days last."""

    key: RSAPublicKey
    root: x509.Certificate
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Pinned:
    """What we were given by hand: Alipay's certificates by number, their owner, the roots."""

    keys: Mapping[str, RSAPublicKey]
    owners: frozenset[str]
    roots: tuple[x509.Certificate, ...]


def read_certificates(data: bytes) -> list[x509.Certificate]:
    """Those of a PEM file that can be read.

    Alipay's own root file has one whose encoding is wrong, beside SM2 and elliptic ones; none of
    them may spoil the others.
    """
    found = []
    for block in _BLOCK.findall(data)[:_MOST_BLOCKS]:
        try:
            found.append(x509.load_pem_x509_certificate(block))
        except ValueError:
            continue
    return found


def certificate_sn(certificate: x509.Certificate) -> str:
    """MD5 of the issuer's name, CN first, with the decimal serial behind it. A name, no proof."""
    text = f"{certificate.issuer.rfc4514_string()}{certificate.serial_number}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def root_sn(roots: Iterable[x509.Certificate]) -> str:
    """The numbers of the roots signed by RSA; the others are left out."""
    return "_".join(
        certificate_sn(root)
        for root in roots
        if root.signature_algorithm_oid.dotted_string.startswith(_RSA_SIGNATURES)
    )


def pinned(certificate_file: bytes, root_file: bytes) -> Pinned:
    """Raises ValueError for a file without an RSA certificate of Alipay, or without a root.

    The certificate's own chain is not asked for: it was put here by hand, and the chain of
    Alipay's test environment does not end in the roots it hands out. During a rotation the file
    may hold the old and the new certificate, each with its issuers behind it.
    """
    found = read_certificates(certificate_file)
    issuers = {one.issuer for one in found}
    leaves = [one for one in found if one.subject not in issuers]
    roots = tuple(read_certificates(root_file))
    if not leaves or not roots:
        raise ValueError("no certificate of Alipay, or no root")
    keys = {certificate_sn(leaf): rsa_key(leaf.public_key()) for leaf in leaves}
    return Pinned(keys, frozenset(_owner(leaf) for leaf in leaves), roots)


def vouched_for(serial: str, data: bytes, given: Pinned, *, now: datetime) -> Learned:
    """The key of a downloaded certificate. Nothing but the chain vouches for the answer it came
    in, so it must have the number asked for, be valid now, and reach a pinned root. Raises
    Disbelief("bad_signature").

    Its owner must be the one of a certificate we were given: the certificates of every merchant's
    application reach the same roots.
    """
    chain = read_certificates(data)
    leaf = next((one for one in chain if certificate_sn(one) == serial), None)
    if leaf is None or _owner(leaf) not in given.owners:
        raise Disbelief("bad_signature", "another certificate")
    root = _root_of(leaf, chain, given.roots, now)
    try:
        key = rsa_key(leaf.public_key())
    except ValueError:
        raise Disbelief("bad_signature", "key") from None
    return Learned(key, root, leaf.not_valid_after_utc)


def _root_of(
    leaf: x509.Certificate,
    chain: list[x509.Certificate],
    roots: tuple[x509.Certificate, ...],
    now: datetime,
) -> x509.Certificate:
    child = leaf
    for _ in range(_MOST_LINKS):
        if not child.not_valid_before_utc <= now <= child.not_valid_after_utc:
            raise Disbelief("bad_signature", "not valid today")
        root = next((one for one in roots if _is_issued(child, one)), None)
        if root is not None:
            return root
        issuer = next((one for one in chain if _may_issue(one) and _is_issued(child, one)), None)
        if issuer is None:
            break
        child = issuer
    raise Disbelief("bad_signature", "no pinned root")


def _is_issued(child: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        if not isinstance(child.signature_hash_algorithm, _DIGESTS):
            return False
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _may_issue(certificate: x509.Certificate) -> bool:
    """A merchant's own certificate reaches the root too, and must vouch for nothing."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _owner(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
