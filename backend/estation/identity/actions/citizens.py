"""How a citizen logs in: a phone proves possession, the identity number's tail the person."""

import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.identity import rules
from estation.identity.actions.sealing import index_binding
from estation.identity.actions.sessions import OpenedSession, open_session
from estation.identity.errors import (
    CodeNotSent,
    CodeTooSoon,
    InvalidPhone,
    LoginDead,
    LoginRequired,
    PersonTriesUsedUp,
    WechatLoginFailed,
    WrongCode,
    WrongPerson,
)
from estation.identity.models import LoginCode, Person, Session, WechatBinding
from estation.identity.queries import openid_in, openid_index, openid_indexes
from estation.outside.sms import SmsFailed, SmsSender
from estation.outside.wechat import (
    MiniProgramPlatform,
    WechatPlatform,
    WechatRefused,
    WechatUnavailable,
)
from estation.shared import ids
from estation.shared.crypto import Vault
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

_ELSEWHERE = """
select id from wechat_binding
where appid = $1 and (openid = $2 or openid_index = any($3::text[])) for update
"""


async def send_login_code(
    *, phone: str, address: str, vault: Vault, sms: SmsSender, now: datetime
) -> None:
    """Send a six-digit code: one a minute and ten a day for a phone, thirty an hour for an address.

    Codes that were used do not count: whoever logs in is not pestering anybody. A new code ends
    the one before. The answer is the same whether we know the phone or not. Raises InvalidPhone,
    CodeTooSoon, CodeNotSent.
    """
    phone = rules.clean_phone(phone)
    if not rules.is_phone(phone):
        raise InvalidPhone(field="phone")
    says_phone, says_address = f"phone:{phone}", f"address:{rules.address_key(address)}"
    code = f"{secrets.randbelow(1_000_000):06d}"
    async with in_transaction() as db:
        # Two taps at once must not both pass the count.
        await _lock(db, vault.steady_index(says_phone), vault.steady_index(says_address))
        await _require_allowance(db, vault.indexes(says_phone), vault.indexes(says_address), now)
        row = LoginCode(
            id=ids.row_id(now),
            phone_index=vault.index(says_phone),
            address_index=vault.index(says_address),
            code_digest=vault.index(_says_code(phone, code)),
            created_at=now,
            expires_at=now + rules.CODE_LIFE,
        )
        await row.save(force_create=True)
    try:
        await sms.send(
            phone=phone, text=f"【不动产e站】登录验证码 {code} ，5 分钟内有效，请勿告诉他人。"
        )
    except SmsFailed:
        # The citizen need not wait for the minute to pass. The code still counts for the day and
        # the address, and still works: after a time-out the message may have been sent.
        await LoginCode.filter(id=row.id).update(created_at=now - rules.CODE_PAUSE)
        log.warning("login_code_not_sent")
        raise CodeNotSent from None


async def login_with_code(
    *,
    phone: str,
    code: str,
    vault: Vault,
    now: datetime,
    session_id: UUID | None = None,
    openid: str | None = None,
    appid: str | None = None,
) -> OpenedSession:
    """Prove the phone. The person is confirmed by `choose_person` next. Raises WrongCode.

    `session_id`, `openid` and its `appid` are those of a login begun in WeChat, which this
    continues.
    """
    phone = rules.clean_phone(phone)
    says_phone = f"phone:{phone}"
    ways = vault.indexes(says_phone)
    async with in_transaction() as db:
        await _lock(db, vault.steady_index(says_phone))
        row = await LoginCode.filter(phone_index__in=ways).order_by("-created_at", "-id").first()
        opened = None
        if row is not None and _is_open(row, now):
            row.tries += 1
            if _is_code(row.code_digest, vault.indexes(_says_code(phone, code))):
                row.used_at = now
                opened = await open_session(
                    now=now,
                    life=rules.LOGIN_LIFE,
                    replaces=session_id,
                    phone_index=ways[0],
                    phone_sealed=vault.seal(phone),
                    openid_sealed=vault.seal(openid) if openid is not None else None,
                    appid=appid,
                )
            await row.save(update_fields=["tries", "used_at"])
    # Refused only now: the try must stay counted.
    if opened is None:
        raise WrongCode
    return opened


async def choose_person(
    *, session_id: UUID, id_tail: str, vault: Vault, appid: str, now: datetime
) -> OpenedSession:
    """Confirm the person among those the counter registered with the proven phone.

    Binds the WeChat openid of the login, if there is one: under the appid the login remembers,
    else under `appid`, the official account's. Raises WrongPerson; LoginDead with the
    fifth wrong answer, which ends the session; PersonTriesUsedUp after fifteen of a phone in a
    day; LoginRequired when no phone was proven.
    """
    async with in_transaction() as db:
        session = await _lock_login(db, session_id, vault)
        if session is None or session.phone_index is None or session.person_id is not None:
            raise LoginRequired
        phones = _phones(session, vault)
        refusal: LoginDead | WrongPerson | None = await _used_up(db, phones, now)
        person = None if refusal else await _person(phones, id_tail, vault)
        if person is not None:
            openid = openid_in(session.openid, session.openid_sealed, vault=vault)
            if openid is not None:
                await _bind(db, session.appid or appid, openid, person.id, vault, now)
            return await open_session(
                now=now,
                life=rules.CITIZEN_LIFE,
                replaces=session.id,
                person_id=person.id,
                openid_sealed=vault.seal(openid) if openid is not None else None,
                appid=session.appid,
            )
        if refusal is None:
            refusal = await _count_wrong_person(db, session, phones)
        if isinstance(refusal, LoginDead):
            await session.delete()
    # Refused only now: the try must stay counted.
    log.warning("person_not_confirmed", code=refusal.code)
    raise refusal


async def begin_wechat_login(*, now: datetime) -> tuple[OpenedSession, str]:
    """A session that remembers the OAuth state, and the state: the callback must bring both."""
    state = secrets.token_urlsafe(24)
    opened = await open_session(now=now, life=rules.LOGIN_LIFE, oauth_state=state)
    return opened, state


async def login_with_wechat(
    *,
    session_id: UUID | None,
    code: str,
    state: str,
    wechat: WechatPlatform,
    vault: Vault,
    now: datetime,
) -> OpenedSession:
    """Finish the login begun by `begin_wechat_login`.

    A bound openid is in; another must still prove phone and person (`needs_person`). Raises
    WechatLoginFailed for a foreign state, a used code, preview mode's fake user.
    """
    session = await Session.get_or_none(id=session_id) if session_id else None
    if session is None or not session.oauth_state:
        raise WechatLoginFailed
    if not hmac.compare_digest(session.oauth_state.encode(), state.encode(errors="replace")):
        raise WechatLoginFailed
    # One use, whatever comes of it. WeChat may take seconds: no transaction is open meanwhile.
    if not await Session.filter(id=session.id, oauth_state=state).update(oauth_state=None):
        raise WechatLoginFailed
    try:
        identity = await wechat.identity_from_code(code)
    except (WechatRefused, WechatUnavailable) as failure:
        log.warning("wechat_login_failed", kind=type(failure).__name__)
        raise WechatLoginFailed from None
    if identity.is_snapshot_user:
        raise WechatLoginFailed
    async with in_transaction() as db:
        bound = await _bound(db, wechat.appid, identity.openid, vault)
        return await open_session(
            now=now,
            life=rules.CITIZEN_LIFE if bound else rules.LOGIN_LIFE,
            replaces=session.id,
            person_id=bound,
            openid_sealed=vault.seal(identity.openid),
        )


async def login_with_mini_program(
    *,
    session_id: UUID | None,
    code: str,
    mini_program: MiniProgramPlatform | None,
    vault: Vault,
    now: datetime,
) -> OpenedSession:
    """Log in by the code of `wx.login`, which itself works once.

    A bound openid is in; another must still prove phone and person (`needs_person`).
    `session_id` is a login begun before, which this ends. Raises WechatLoginFailed.
    """
    if mini_program is None:
        raise WechatLoginFailed
    # WeChat may take seconds: no transaction is open meanwhile.
    try:
        identity = await mini_program.identity_from_mini_code(code)
    except (WechatRefused, WechatUnavailable) as failure:
        log.warning("mini_program_login_failed", kind=type(failure).__name__)
        raise WechatLoginFailed from None
    appid = mini_program.appid
    async with in_transaction() as db:
        bound = await _bound(db, appid, identity.openid, vault)
        return await open_session(
            now=now,
            life=rules.CITIZEN_LIFE if bound else rules.LOGIN_LIFE,
            replaces=session_id,
            person_id=bound,
            openid_sealed=vault.seal(identity.openid),
            appid=appid,
        )


async def _lock(db: BaseDBAsyncClient, *indexes: str) -> None:
    """One at a time for this phone or address, until the transaction ends."""
    for index in sorted(indexes):  # in one order, so that two never wait for each other
        await db.execute_query("select pg_advisory_xact_lock(hashtextextended($1, 0))", [index])


async def _lock_login(db: BaseDBAsyncClient, session_id: UUID, vault: Vault) -> Session | None:
    """The session, its phone locked first: the same order as `login_with_code`, which ends it."""
    seen = await Session.get_or_none(id=session_id)
    if seen is not None and seen.phone_index is not None:
        phone = _phone_of(seen, vault)
        await _lock(db, vault.steady_index(phone) if phone else seen.phone_index)
    return await Session.select_for_update().get_or_none(id=session_id)


def _phone_of(session: Session, vault: Vault) -> str | None:
    """What the phone's indexes are made of; None for a login begun before it was kept."""
    return f"phone:{vault.open(session.phone_sealed)}" if session.phone_sealed else None


def _phones(session: Session, vault: Vault) -> tuple[str, ...]:
    """The indexes under which a login's phone may stand in other tables."""
    phone = _phone_of(session, vault)
    return vault.indexes(phone) if phone else (session.phone_index or "",)


def _is_open(code: LoginCode, now: datetime) -> bool:
    return code.used_at is None and now < code.expires_at and code.tries < rules.CODE_TRIES


async def _used_up(db: BaseDBAsyncClient, phones: Sequence[str], now: datetime) -> LoginDead | None:
    rows = await db.execute_query_dict(
        "select sum(wrong_persons) as wrong from login_code"
        " where phone_index = any($1::text[]) and created_at > $2",
        [list(phones), now - timedelta(days=1)],
    )
    return PersonTriesUsedUp() if (rows[0]["wrong"] or 0) >= rules.WRONG_PERSONS_PER_DAY else None


async def _count_wrong_person(
    db: BaseDBAsyncClient, session: Session, phones: Sequence[str]
) -> WrongPerson | LoginDead:
    """Count it for the login and for the phone; the refusal that follows."""
    session.bind_tries += 1
    await session.save(update_fields=["bind_tries"])
    await db.execute_query(
        """update login_code set wrong_persons = wrong_persons + 1
           where id = (select id from login_code where phone_index = any($1::text[])
                       order by created_at desc, id desc limit 1)""",
        [list(phones)],
    )
    return LoginDead() if session.bind_tries >= rules.BIND_TRIES else WrongPerson()


async def _require_allowance(
    db: BaseDBAsyncClient, phones: Sequence[str], addresses: Sequence[str], now: datetime
) -> None:
    rows = await db.execute_query_dict(
        """select count(*) filter (where is_phone and created_at > $3) as minute,
                  count(*) filter (where is_phone and created_at > $4) as day,
                  count(*) filter (where is_address and created_at > $5) as address
           from (select created_at, phone_index = any($1::text[]) as is_phone,
                        address_index = any($2::text[]) as is_address
                 from login_code
                 where (phone_index = any($1::text[]) or address_index = any($2::text[]))
                   and created_at > $4 and used_at is null) c""",
        [
            list(phones),
            list(addresses),
            now - rules.CODE_PAUSE,
            now - timedelta(days=1),
            now - timedelta(hours=1),
        ],
    )
    sent = rows[0]
    if sent["minute"]:
        raise CodeTooSoon(retry_after_seconds=60)
    if sent["day"] >= rules.CODES_PER_DAY or sent["address"] >= rules.CODES_PER_ADDRESS_HOUR:
        raise CodeTooSoon(retry_after_seconds=3600)


async def _person(phones: Sequence[str], id_tail: str, vault: Vault) -> Person | None:
    tail = rules.id_tail(id_tail)
    if tail is None:
        return None
    found = await Person.filter(
        phone_index__in=phones, id_tail_index__in=vault.indexes(f"tail:{tail}")
    ).limit(2)
    # Two people with one phone and one tail: too close to call, the counter decides.
    return found[0] if len(found) == 1 else None


async def _bound(db: BaseDBAsyncClient, appid: str, openid: str, vault: Vault) -> UUID | None:
    """Whose openid this is. A binding from before the index gets it now, also one that a program
    of the release before has made since; so does one under the index of another key."""
    index, *others = openid_indexes(openid, vault=vault)
    for row in await db.execute_query_dict(_ELSEWHERE, [appid, openid, others]):
        await index_binding(db, row["id"], index, vault.seal(openid))
    binding = await WechatBinding.get_or_none(appid=appid, openid_index=index)
    if binding is not None and binding.openid_sealed is None:
        await WechatBinding.filter(id=binding.id).update(openid_sealed=vault.seal(openid))
    return binding.person_id if binding else None


async def _bind(
    db: BaseDBAsyncClient, appid: str, openid: str, person_id: UUID, vault: Vault, now: datetime
) -> None:
    """This WeChat user is this person from now on, whoever it was before."""
    if await _bound(db, appid, openid, vault) == person_id:
        return
    await db.execute_query(
        """insert into wechat_binding (id, appid, openid_index, openid_sealed, person_id, bound_at)
           values ($1, $2, $3, $4, $5, $6)
           on conflict (appid, openid_index)
           do update set person_id = excluded.person_id, bound_at = excluded.bound_at
           where wechat_binding.person_id <> excluded.person_id""",
        [
            ids.row_id(now),
            appid,
            openid_index(openid, vault=vault),
            vault.seal(openid),
            person_id,
            now,
        ],
    )


def _says_code(phone: str, code: str) -> str:
    return f"code:{phone}:{code}"


def _is_code(digest: str, right: Sequence[str]) -> bool:
    return any(hmac.compare_digest(digest, one) for one in right)
