"""Sessions: opened, rotated at every change of privilege, ended. Only digests are stored."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from tortoise import Tortoise

from estation.identity.models import Session
from estation.identity.rules import CODES_KEPT
from estation.shared import ids
from estation.shared.crypto import token_digest

FORGET_AT_ONCE = 1000
FORGET_ROUNDS = 50

_FORGET_SESSIONS = """
delete from session where id = any(array(
    select id from session where expires_at < $1 order by expires_at limit $2
    for update skip locked))
returning id
"""

_FORGET_CODES = """
delete from login_code where id = any(array(
    select id from login_code where created_at < $1 order by created_at limit $2
    for update skip locked))
returning id
"""


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A fresh token for the browser; `needs_person` while only the phone is proven."""

    token: str
    csrf_token: str
    expires_at: datetime
    needs_person: bool


async def open_session(
    *,
    now: datetime,
    life: timedelta,
    replaces: UUID | None = None,
    person_id: UUID | None = None,
    staff_id: UUID | None = None,
    phone_index: str | None = None,
    phone_sealed: bytes | None = None,
    openid_sealed: bytes | None = None,
    appid: str | None = None,
    oauth_state: str | None = None,
) -> OpenedSession:
    """Joins the caller's transaction. `replaces` ends the session before it: no fixation.

    `appid` says whose openid it is; None means the official account's.
    """
    if replaces is not None:
        await Session.filter(id=replaces).delete()
    token, csrf_token = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
    await Session(
        id=ids.row_id(now),
        token_digest=token_digest(token),
        csrf_token=csrf_token,
        person_id=person_id,
        staff_id=staff_id,
        phone_index=phone_index,
        phone_sealed=phone_sealed,
        openid_sealed=openid_sealed,
        appid=appid,
        oauth_state=oauth_state,
        created_at=now,
        seen_at=now,
        expires_at=now + life,
    ).save(force_create=True)
    return OpenedSession(
        token, csrf_token, now + life, needs_person=person_id is None and staff_id is None
    )


async def logout(session_id: UUID) -> None:
    """End it; ending an ended one is fine."""
    await Session.filter(id=session_id).delete()


async def touch(session_id: UUID, *, now: datetime) -> None:
    """The session was used; idle time counts from here."""
    await Session.filter(id=session_id, seen_at__lt=now).update(seen_at=now)


async def forget_expired(*, now: datetime) -> int:
    """Delete sessions past their end and codes that no limit counts any more; how many went.

    In short statements of at most 1,000 rows, at most 50,000 of each a call: anybody may begin a
    login, so that the table must shrink faster than a crowd can fill it.
    """
    return await _forget(_FORGET_SESSIONS, now) + await _forget(_FORGET_CODES, now - CODES_KEPT)


async def _forget(statement: str, before: datetime) -> int:
    db = Tortoise.get_connection("default")
    gone = 0
    for _ in range(FORGET_ROUNDS):
        went = len(await db.execute_query_dict(statement, [before, FORGET_AT_ONCE]))
        gone += went
        if went < FORGET_AT_ONCE:
            break
    return gone
