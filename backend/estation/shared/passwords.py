"""Passwords at rest: scrypt (RFC 7914) with its parameters beside the hash."""

import asyncio
import base64
import hashlib
import hmac
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

from estation.shared.errors import TooManyRequests

Made = TypeVar("Made")

_LOG_N, _R, _P = 14, 8, 5
"""OWASP's password storage advice: 16 MiB and about a fifth of a second."""
MAX_PASSWORD_BYTES = 256

THREADS = 2
MAX_WAITING = 8
"""Per process, beside those at work: a flood of logins takes no more CPU than THREADS."""

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
_places = BoundedSemaphore(THREADS + MAX_WAITING)


class TooManyLogins(TooManyRequests):
    """Every thread is busy and the queue is full: no password was looked at."""

    message = "登录的人较多，请稍后再试。"


async def hash_in_turn(password: str) -> str:
    """`hash_password` beside the event loop. Raises TooManyLogins when too many wait."""
    return await _in_turn(lambda: hash_password(password))


async def verify_in_turn(password: str, stored: str) -> bool:
    """`verify_password` beside the event loop. Raises TooManyLogins when too many wait."""
    return await _in_turn(lambda: verify_password(password, stored))


async def _in_turn(work: Callable[[], Made]) -> Made:
    if not _places.acquire(blocking=False):
        raise TooManyLogins
    running = _threads.submit(work)
    # Given back when the work is done, not when an impatient caller goes away.
    running.add_done_callback(lambda _: _places.release())
    return await asyncio.wrap_future(running)


def hash_password(password: str) -> str:
    """Blocking: see `hash_in_turn`. `scrypt$14$8$1$<salt>$<hash>`, base64."""
    salt = os.urandom(16)
    made = _derive(password, salt, _LOG_N, _R, _P)
    return f"scrypt${_LOG_N}${_R}${_P}${_text(salt)}${_text(made)}"


def hash_of_nothing() -> str:
    """As long to verify as any, and the hash of no password: for logins that nobody has."""
    return f"scrypt${_LOG_N}${_R}${_P}${_text(os.urandom(16))}${_text(os.urandom(32))}"


def verify_password(password: str, stored: str) -> bool:
    """Blocking: see `verify_in_turn`. False for a wrong password and for anything unreadable."""
    try:
        scheme, log_n, r, p, salt, wanted = stored.split("$")
        if scheme != "scrypt" or len(password.encode()) > MAX_PASSWORD_BYTES:
            return False
        made = _derive(password, base64.b64decode(salt), int(log_n), int(r), int(p))
        return hmac.compare_digest(made, base64.b64decode(wanted))
    except ValueError:
        return False


def _derive(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=2**log_n, r=r, p=p, maxmem=2 ** (log_n + 11), dklen=32
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
