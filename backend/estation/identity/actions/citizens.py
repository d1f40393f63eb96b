"""How a citizen logs in: a phone proves possession, the identity number's tail the person."""

import hmac
import secrets
from datetime import datetime, timedelta
from uuid import UUID

from tortoise import Tortoise
from tortoise.transactions import in_transaction

from estation.identity import rules
from estation.identity.actions.sessions import OpenedSession, open_session
from estation.identity.errors import (
    CodeNotSent,
    CodeTooSoon,
    InvalidPhone,
    LoginDead,
    LoginRequired,
    WechatLoginFailed,
    WrongCode,
    WrongPerson,
)
from estation.identity.models import LoginCode, Person, Session, WechatBinding
from estation.outside.sms import SmsFailed, SmsSender
from estation.outside.wechat import WechatPlatform, WechatRefused, WechatUnavailable
from estation.shared import ids
from estation.shared.crypto import Vault


async def send_login_code(
    *, phone: str, address: str, vault: Vault, sms: SmsSender, now: datetime
) -> None:
    """Send a six-digit code: one a minute and ten a day for a phone, thirty an hour for an address.

    Codes that were used do not count: whoever logs in is not pestering anybody. The answer is the same whether we know the phone or not. Raises InvalidPhone, CodeTooSoon,
    CodeNotSent.
    """
    if not rules.is_phone(phone):
        raise InvalidPhone(field="phone")
    phone_index, address_index = vault.index(f"phone:{phone}"), vault.index(f"address:{address}")
    code = f"{secrets.randbelow(1_000_000):06d}"
    async with in_transaction() as db:
        # Two taps at once must not both pass the count.
        await db.execute_query("select pg_advisory_xact_lock(hashtext($1))", [phone_index])
        await _require_allowance(phone_index, address_index, now)
        row = LoginCode(
            id=ids.row_id(now),
            phone_index=phone_index,
            address_index=address_index,
            code_digest=_code_digest(vault, phone, code),
            created_at=now,
            expires_at=now + rules.CODE_LIFE,
        )
        await row.save(force_create=True)
    try:
        await sms.send(
            phone=phone, text=f"【不动产e站】登录验证码 {code} ，5 分钟内有效，请勿告诉他人。"
        )
    except SmsFailed:
        # The citizen may ask again at once: a message that was not sent is not counted.
        await LoginCode.filter(id=row.id).delete()
        raise CodeNotSent from None


async def login_with_code(
    *,
    phone: str,
    code: str,
    vault: Vault,
    now: datetime,
    session_id: UUID | None = None,
    openid: str | None = None,
) -> OpenedSession:
    """Prove the phone. The person is confirmed by `choose_person` next. Raises WrongCode.

    `session_id` and `openid` are those of a login begun in WeChat, which this continues.
    """
    phone_index = vault.index(f"phone:{phone}")
    async with in_transaction():
        row = (
            await LoginCode.filter(phone_index=phone_index, used_at=None, expires_at__gt=now)
            .order_by("-created_at")
            .select_for_update()
            .first()
        )
        opened = None
        if row is not None and row.tries < rules.CODE_TRIES:
            row.tries += 1
            if hmac.compare_digest(row.code_digest, _code_digest(vault, phone, code)):
                row.used_at = now
                opened = await open_session(
                    now=now,
                    life=rules.LOGIN_LIFE,
                    replaces=session_id,
                    phone_index=phone_index,
                    openid=openid,
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

    Binds the WeChat openid of the login, if there is one. Raises WrongPerson, LoginDead after
    five wrong answers, LoginRequired when no phone was proven.
    """
    async with in_transaction():
        session = await Session.select_for_update().get_or_none(id=session_id)
        if session is None or session.phone_index is None or session.person_id is not None:
            raise LoginRequired
        session.bind_tries += 1
        await session.save(update_fields=["bind_tries"])
        dead = session.bind_tries > rules.BIND_TRIES
        person = None if dead else await _person(session.phone_index, id_tail, vault)
        opened = None
        if person is not None:
            if session.openid is not None:
                await _bind(appid, session.openid, person.id, now)
            opened = await open_session(
                now=now,
                life=rules.CITIZEN_LIFE,
                replaces=session.id,
                person_id=person.id,
                openid=session.openid,
            )
    if opened is not None:
        return opened
    raise LoginDead if dead else WrongPerson


async def begin_wechat_login(*, now: datetime) -> tuple[OpenedSession, str]:
    """A session that remembers the OAuth state, and the state: the callback must bring both."""
    state = secrets.token_urlsafe(24)
    opened = await open_session(now=now, life=rules.LOGIN_LIFE, oauth_state=state)
    return opened, state


async def login_with_wechat(
    *, session_id: UUID | None, code: str, state: str, wechat: WechatPlatform, now: datetime
) -> OpenedSession:
    """Finish the login begun by `begin_wechat_login`.

    A bound openid is in; another must still prove phone and person (`needs_person`). Raises
    WechatLoginFailed for a foreign state, a used code, preview mode's fake user.
    """
    session = await Session.get_or_none(id=session_id) if session_id else None
    if session is None or not session.oauth_state:
        raise WechatLoginFailed
    if not hmac.compare_digest(session.oauth_state, state):
        raise WechatLoginFailed
    # One use, whatever comes of it. WeChat may take seconds: no transaction is open meanwhile.
    if not await Session.filter(id=session.id, oauth_state=state).update(oauth_state=None):
        raise WechatLoginFailed
    try:
        identity = await wechat.identity_from_code(code)
    except (WechatRefused, WechatUnavailable):
        raise WechatLoginFailed from None
    if identity.is_snapshot_user:
        raise WechatLoginFailed
    async with in_transaction():
        binding = await WechatBinding.get_or_none(appid=wechat.appid, openid=identity.openid)
        return await open_session(
            now=now,
            life=rules.CITIZEN_LIFE if binding else rules.LOGIN_LIFE,
            replaces=session.id,
            person_id=binding.person_id if binding else None,
            openid=identity.openid,
        )


async def _require_allowance(phone_index: str, address_index: str, now: datetime) -> None:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select count(*) filter (where phone_index = $1 and created_at > $3) as minute,
                  count(*) filter (where phone_index = $1 and created_at > $4) as day,
                  count(*) filter (where address_index = $2 and created_at > $5) as address
           from login_code
           where (phone_index = $1 or address_index = $2) and created_at > $4
             and used_at is null""",
        [
            phone_index,
            address_index,
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


async def _person(phone_index: str, id_tail: str, vault: Vault) -> Person | None:
    tail = rules.id_tail(id_tail)
    if tail is None:
        return None
    found = await Person.filter(
        phone_index=phone_index, id_tail_index=vault.index(f"tail:{tail}")
    ).limit(2)
    # Two people with one phone and one tail: too close to call, the counter decides.
    return found[0] if len(found) == 1 else None


async def _bind(appid: str, openid: str, person_id: UUID, now: datetime) -> None:
    binding = await WechatBinding.get_or_none(appid=appid, openid=openid)
    if binding is None:
        await WechatBinding(
            id=ids.row_id(now), appid=appid, openid=openid, person_id=person_id, bound_at=now
        ).save(force_create=True)
    elif binding.person_id != person_id:
        binding.person_id, binding.bound_at = person_id, now
        await binding.save(update_fields=["person_id", "bound_at"])


def _code_digest(vault: Vault, phone: str, code: str) -> str:
    return vault.index(f"code:{phone}:{code}")
