"""Coming to the desk and leaving it."""

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from tortoise import Tortoise

from estation.inner import rules
from estation.inner.errors import LoginFailed, LoginLocked
from estation.inner.models import Session, StaffUser
from estation.inner.rules import Role
from estation.inner.views import Clerk
from estation.shared import ids, passwords
from estation.shared.crypto import token_digest
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

SEEN_EVERY = timedelta(minutes=1)
"""How exactly the idle time is kept: at most one write per session and minute."""
_NOBODY = passwords.hash_of_nothing()
"""Compared for unknown logins, so that they take as long as known ones."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A live session: who, and the token that its forms must carry."""

    clerk: Clerk
    csrf_token: str


async def log_in(login: str, password: str, *, now: datetime) -> str:
    """The session's token for the cookie.

    Raises LoginFailed for an unknown login, a wrong password and a disabled account alike,
    LoginLocked while locked; the fifth wrong password in a row locks for 15 minutes. Raises
    TooManyLogins, and counts nothing, when too many passwords wait to be checked.
    """
    user = await StaffUser.get_or_none(login=login[:32])
    if user is not None and user.locked_until is not None and user.locked_until > now:
        raise LoginLocked(until=user.locked_until.isoformat())
    stored = user.password_hash if user is not None else _NOBODY
    # Scrypt takes its time on purpose: no transaction is open meanwhile.
    right = await passwords.verify_in_turn(password, stored)
    if user is None or not right or user.disabled_at is not None:
        if user is not None:
            await _count_failure(user.id, now)
        log.info("login_failed")
        raise LoginFailed()
    return await _open_session(user.id, now)


async def _count_failure(user_id: UUID, now: datetime) -> None:
    async with in_transaction():
        user = await StaffUser.select_for_update().get(id=user_id)
        failed = user.failed_logins + 1
        user.locked_until = rules.lock_after_failure(failed, now=now)
        user.failed_logins = 0 if user.locked_until else failed
        await user.save(update_fields=["failed_logins", "locked_until"])


async def _open_session(user_id: UUID, now: datetime) -> str:
    """Raises LoginLocked when guesses beside this one locked the account meanwhile."""
    token = secrets.token_urlsafe(32)
    async with in_transaction():
        user = await StaffUser.select_for_update().get(id=user_id)
        if user.locked_until is not None and user.locked_until > now:
            raise LoginLocked(until=user.locked_until.isoformat())
        user.failed_logins, user.locked_until = 0, None
        await user.save(update_fields=["failed_logins", "locked_until"])
        await Session.filter(created_at__lt=now - rules.LONGEST_SESSION).delete()
        await Session(
            id=ids.row_id(now),
            token_digest=token_digest(token),
            csrf_token=secrets.token_urlsafe(24),
            staff_id=user.id,
            created_at=now,
            seen_at=now,
        ).save(force_create=True)
    log.info("logged_in", login=user.login)
    return token


async def session_of(token: str, *, now: datetime) -> OpenSession | None:
    """The live session of a cookie, kept alive by this call; None when idle for too long."""
    db = Tortoise.get_connection("default")
    rows = await db.execute_query_dict(
        """select s.id, s.csrf_token, s.seen_at, u.id as staff_id, u.login, u.name, u.role
           from desk_session s join desk_user u on u.id = s.staff_id
           where s.token_digest = $1 and s.seen_at > $2 and s.created_at > $3
             and u.disabled_at is null""",
        [token_digest(token), now - rules.IDLE, now - rules.LONGEST_SESSION],
    )
    if not rows:
        return None
    row = rows[0]
    if row["seen_at"] <= now - SEEN_EVERY:
        await db.execute_query(
            "update desk_session set seen_at = $2 where id = $1 and seen_at < $2", [row["id"], now]
        )
    clerk = Clerk(row["staff_id"], row["id"], row["login"], row["name"], Role(row["role"]))
    return OpenSession(clerk, row["csrf_token"])


async def log_out(session_id: UUID) -> None:
    """The session is gone; that it was gone already is fine."""
    await Session.filter(id=session_id).delete()


def same_token(given: str, wanted: str) -> bool:
    """Compares form tokens without telling by time how much fits."""
    return hmac.compare_digest(given.encode(), wanted.encode())
