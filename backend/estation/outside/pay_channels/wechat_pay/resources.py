"""Opening what WeChat Pay encrypted with the APIv3 key (AEAD_AES_256_GCM)."""

import binascii
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.outside.pay_channels.believing import Disbelief

ALGORITHM = "AEAD_AES_256_GCM"
NONCE_BYTES = 12


def open_resource(cipher: AESGCM, resource: Any) -> bytes:
    """The plaintext of a notice's `resource` or of an `encrypt_certificate`.

    Raises Disbelief("malformed") for another shape and Disbelief("undecryptable") for another
    algorithm, key, nonce length or altered text.
    """
    if not isinstance(resource, dict):
        raise Disbelief("malformed", "resource")
    if resource.get("algorithm") != ALGORITHM:
        raise Disbelief("undecryptable", "algorithm")
    ciphertext = resource.get("ciphertext")
    nonce = resource.get("nonce")
    associated = resource.get("associated_data") or ""
    if not (isinstance(ciphertext, str) and isinstance(nonce, str) and isinstance(associated, str)):
        raise Disbelief("malformed", "resource")
    nonce_bytes = nonce.encode(errors="replace")
    if len(nonce_bytes) != NONCE_BYTES:
        raise Disbelief("undecryptable", "nonce")
    try:
        sealed = binascii.a2b_base64(ciphertext, strict_mode=True)
        return cipher.decrypt(nonce_bytes, sealed, associated.encode(errors="replace"))
    except (InvalidTag, ValueError):
        raise Disbelief("undecryptable") from None
