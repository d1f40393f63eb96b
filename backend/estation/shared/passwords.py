"""Passwords at rest: scrypt (RFC 7914) with its parameters beside the hash."""

import base64
import hashlib
import hmac
import os

_LOG_N, _R, _P = 14, 8, 5
"""OWASP's password storage advice: 16 MiB and about a fifth of a second."""
MAX_PASSWORD_BYTES = 256


def hash_password(password: str) -> str:
    """Blocking: run it in a thread. `scrypt$14$8$1$<salt>$<hash>`, base64."""
    salt = os.urandom(16)
    return f"scrypt${_LOG_N}${_R}${_P}${_text(salt)}${_text(_derive(password, salt))}"


def verify_password(password: str, stored: str) -> bool:
    """Blocking. False for a wrong password and for anything unreadable."""
    try:
        scheme, log_n, r, p, salt, wanted = stored.split("$")
        if scheme != "scrypt" or len(password.encode()) > MAX_PASSWORD_BYTES:
            return False
        made = _derive(password, base64.b64decode(salt), int(log_n), int(r), int(p))
        return hmac.compare_digest(made, base64.b64decode(wanted))
    except ValueError:
        return False


def _derive(password: str, salt: bytes, log_n: int = _LOG_N, r: int = _R, p: int = _P) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=2**log_n, r=r, p=p, maxmem=2 ** (log_n + 11), dklen=32
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
