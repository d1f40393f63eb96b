"""Hearing a message once, and publishing the menu."""

from datetime import datetime
from functools import partial
from typing import Final

from prometheus_client import Counter
from tortoise import Tortoise

from estation.official_account import rules
from estation.outside.wechat import AccountApi
from estation.outside.wechat.messages import AccountMessage
from estation.settings import Settings
from estation.shared.crypto import Vault
from estation.shared.forgetting import forget_in_rounds
from estation.shared.jsonb import clean_text

FORGET_AT_ONCE: Final = 5000

HEARD = Counter("estation_wechat_messages", "Messages of the official account", ["kind"])

_HEAR = """
with heard as (
    insert into official_account_message as m (key, kind, reply, deliveries, heard_at)
    values ($1, $2, $3, 1, $4::timestamptz)
    on conflict (key) do update set deliveries = m.deliveries + 1
    returning m.reply, m.deliveries)
select reply, deliveries from heard
"""

_FORGET = """
with gone as (
    delete from official_account_message where key = any(array(
        select key from official_account_message where heard_at < $1
        order by heard_at limit $2))
    returning 1)
select count(*) as n from gone
"""


async def hear(message: AccountMessage, *, settings: Settings, vault: Vault, now: datetime) -> str:
    """What to answer; a repeated delivery is answered as the first one was, and counts once.

    A row is found by a blind index, so that nobody who only has the table can try openids. One
    made with a former data key goes out of use: what WeChat repeats, it repeats within seconds.
    """
    kind = ":".join(part for part in (message.kind, message.event) if part)
    reply = rules.reply_to(
        kind=message.kind,
        event=message.event,
        event_key=message.event_key,
        text=message.text,
        city=_city(settings),
    )
    rows = await Tortoise.get_connection("default").execute_query_dict(
        _HEAR, [vault.index(f"account_message:{message.said}"), clean_text(kind, 100), reply, now]
    )
    if rows[0]["deliveries"] == 1:
        HEARD.labels(message.kind if message.kind in _COUNTED else "other").inc()
    return str(rows[0]["reply"])


_COUNTED = frozenset({"text", "image", "voice", "video", "location", "link", "event"})


async def publish_menu(api: AccountApi, *, settings: Settings) -> None:
    """Raises WechatRefused, WechatUnavailable."""
    await api.call("/cgi-bin/menu/create", rules.menu(_city(settings)))


async def forget_messages(*, now: datetime) -> int:
    """Delete messages past their time, as many as go within a minute; how many."""
    return await forget_in_rounds(partial(_forget, now), at_once=FORGET_AT_ONCE)


async def _forget(now: datetime, limit: int) -> int:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        _FORGET, [now - rules.KEPT, limit]
    )
    return int(rows[0]["n"])


def _city(settings: Settings) -> rules.City:
    hall = settings.hall
    return rules.City(
        name=settings.city_name,
        url=settings.public_url.rstrip("/"),
        hall=f"{hall.name} {hall.phone}（{hall.hours}）",
    )
