"""Staff of the online side: made by an operator, locked after wrong passwords."""

from datetime import datetime
from uuid import UUID

import structlog

from estation.identity import rules
from estation.identity.actions.sessions import OpenedSession, open_session
from estation.identity.errors import WrongPassword
from estation.identity.models import StaffRole, StaffUser
from estation.shared import ids, passwords
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

_NOBODY = passwords.hash_of_nothing()
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
        password_hash=await passwords.hash_in_turn(password),
    ).save(force_create=True)
    log.info("staff_made", login=login, role=role)


async def login_staff(
    *, login: str, password: str, now: datetime, session_id: UUID | None = None
) -> OpenedSession:
    """Raises WrongPassword for every kind of no; five wrong ones lock for fifteen minutes.

    Raises TooManyLogins, and counts nothing, when too many passwords wait to be checked.
    """
    if "\0" in login or len(login) > MAX_LOGIN or len(password) > MAX_PASSWORD:
        raise WrongPassword
    user = await StaffUser.get_or_none(login=login)
    # scrypt takes a good while of CPU: neither the loop nor a transaction waits for it.
    right = await passwords.verify_in_turn(password, user.password_hash if user else _NOBODY)
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
