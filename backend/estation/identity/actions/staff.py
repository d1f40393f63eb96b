"""Staff of the online side: made by an operator, locked after wrong passwords."""

import asyncio
import base64
import hashlib
import hmac
import secrets
from datetime import datetime
from uuid import UUID

from tortoise.transactions import in_transaction

from estation.identity import rules
from estation.identity.actions.sessions import OpenedSession, open_session
from estation.identity.errors import WrongPassword
from estation.identity.models import StaffRole, StaffUser
from estation.shared import ids

_SCRYPT = {"n": 2**14, "r": 8, "p": 1}
_NOBODY = "scrypt$" + "A" * 22 + "==$" + "A" * 43 + "="
"""Checked when there is no such login, so that both answers take the same time."""


async def ensure_staff(*, login: str, name: str, role: str, password: str, now: datetime) -> None:
    """Make this officer unless there is one of this login."""
    if await StaffUser.exists(login=login):
        return
    await StaffUser(
        id=ids.row_id(now),
        login=login,
        name=name,
        role=StaffRole(role),
        password_hash=await asyncio.to_thread(_hashed, password),
    ).save(force_create=True)


async def login_staff(
    *, login: str, password: str, now: datetime, session_id: UUID | None = None
) -> OpenedSession:
    """Raises WrongPassword for every kind of no; five wrong ones lock for fifteen minutes."""
    user = await StaffUser.get_or_none(login=login)
    stored = user.password_hash if user else _NOBODY
    # scrypt takes tens of milliseconds of CPU: neither the loop nor a transaction waits for it.
    right = await asyncio.to_thread(_matches, password, stored)
    if user is None:
        raise WrongPassword
    opened = None
    async with in_transaction():
        user = await StaffUser.select_for_update().get(id=user.id)
        if user.disabled_at is None and not (user.locked_until and now < user.locked_until):
            if right:
                user.failed_logins, user.locked_until = 0, None
                opened = await open_session(
                    now=now, life=rules.STAFF_LIFE, replaces=session_id, staff_id=user.id
                )
            else:
                user.failed_logins += 1
                if user.failed_logins >= rules.STAFF_TRIES:
                    user.failed_logins, user.locked_until = 0, now + rules.STAFF_LOCK
            await user.save(update_fields=["failed_logins", "locked_until"])
    if opened is None:
        raise WrongPassword
    return opened


def _hashed(password: str) -> str:
    salt = secrets.token_bytes(16)
    return "$".join(("scrypt", _text(salt), _text(_derive(password, salt))))


def _matches(password: str, stored: str) -> bool:
    _, salt, digest = stored.split("$")
    return hmac.compare_digest(_derive(password, base64.b64decode(salt)), base64.b64decode(digest))


def _derive(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, dklen=32, **_SCRYPT)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
