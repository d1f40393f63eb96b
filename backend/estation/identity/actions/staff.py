"""Staff of the online side: made by an operator, locked after wrong passwords."""

import asyncio
import base64
import hashlib
import hmac
import secrets
from datetime import datetime
from uuid import UUID

import structlog
from tortoise.transactions import in_transaction

from estation.identity import rules
from estation.identity.actions.sessions import OpenedSession, open_session
from estation.identity.errors import WrongPassword
from estation.identity.models import StaffRole, StaffUser
from estation.shared import ids

log = structlog.get_logger()

_N, _R, _P = 2**14, 8, 5
"""scrypt's cost (OWASP password storage): 16 MiB and about a fifth of a second."""
_NOBODY = f"scrypt${_N}${_R}${_P}$" + "A" * 22 + "==$" + "A" * 43 + "="
"""Checked when there is no such login, so that both answers take the same time."""

MAX_LOGIN = 32
MAX_PASSWORD = 256


async def ensure_staff(*, login: str, name: str, role: str, password: str, now: datetime) -> None:
    """Make this officer unless there is one of this login, who stays as he is."""
    if await StaffUser.exists(login=login):
        return
    await StaffUser(
        id=ids.row_id(now),
        login=login,
        name=name,
        role=StaffRole(role),
        password_hash=await asyncio.to_thread(_hashed, password),
    ).save(force_create=True)
    log.info("staff_made", login=login, role=role)


async def login_staff(
    *, login: str, password: str, now: datetime, session_id: UUID | None = None
) -> OpenedSession:
    """Raises WrongPassword for every kind of no; five wrong ones lock for fifteen minutes."""
    if "\0" in login or len(login) > MAX_LOGIN or len(password) > MAX_PASSWORD:
        raise WrongPassword
    user = await StaffUser.get_or_none(login=login)
    # scrypt takes a good while of CPU: neither the loop nor a transaction waits for it.
    right = await asyncio.to_thread(_matches, password, user.password_hash if user else _NOBODY)
    opened = None
    async with in_transaction():
        user = await StaffUser.select_for_update().get_or_none(login=login)
        if user is not None and _may_try(user, now):
            if right:
                user.failed_logins, user.locked_until = 0, None
                opened = await open_session(
                    now=now, life=rules.STAFF_LIFE, replaces=session_id, staff_id=user.id
                )
            else:
                _count_failure(user, now)
            await user.save(update_fields=["failed_logins", "locked_until"])
    # Refused only now: the failure must stay counted.
    if opened is None:
        log.warning("staff_login_refused", staff_id=str(user.id) if user else None)
        raise WrongPassword
    log.info("staff_logged_in", staff_id=str(user.id) if user else None)
    return opened


def _may_try(user: StaffUser, now: datetime) -> bool:
    return user.disabled_at is None and not (user.locked_until and now < user.locked_until)


def _count_failure(user: StaffUser, now: datetime) -> None:
    user.failed_logins += 1
    if user.failed_logins >= rules.STAFF_TRIES:
        user.failed_logins, user.locked_until = 0, now + rules.STAFF_LOCK


def _hashed(password: str) -> str:
    salt = secrets.token_bytes(16)
    digest = _derive(password, salt, _N, _R, _P)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), _text(salt), _text(digest)))


def _matches(password: str, stored: str) -> bool:
    _, n, r, p, salt, digest = stored.split("$")
    derived = _derive(password, base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(derived, base64.b64decode(digest))


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    given = password.encode(errors="replace")
    return hashlib.scrypt(given, salt=salt, n=n, r=r, p=p, maxmem=64 * 2**20, dklen=32)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
