"""News that could not be settled: kept in the inbox and tried again, a bounded number of times."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import msgspec
import orjson
import structlog
from tortoise import Tortoise

from estation.outside.pay_channels import Channel, ChannelReport, RefundReport, VerifiedNotice
from estation.payments import rules
from estation.payments.actions.settle import SettleItem, settle_reports
from estation.payments.actions.storing import OPERATOR, IncidentNote, put_incidents
from estation.payments.rules import IncidentKind
from estation.shared import ids
from estation.shared.forgetting import forget_in_rounds
from estation.shared.jsonb import clean_text, jsonb_text
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

FORGET_AT_ONCE: Final = 5000


async def keep_unhandled(item: SettleItem, *, error: Exception, now: datetime) -> None:
    """Store a notice whose settling failed, in a transaction of its own, for the janitor."""
    notice = item.notice
    if notice is None:
        return
    await Tortoise.get_connection("default").execute_query_dict(
        """with kept as (
             insert into pay_notice (id, channel, account_id, event_key, kind, out_trade_no,
               plaintext, received_at, report, refund, tries, next_try_at, last_error, outcome)
             values ($1::uuid, $2, $3, $4, $5, $6, $7::jsonb, $8, $9::jsonb, $10::jsonb, 0, $11,
                     $12, '')
             on conflict (channel, account_id, event_key) do nothing returning id)
           insert into pay_notice_message (id, message_sealed)
           select id, $13::bytea from kept where $13::bytea <> ''""",
        [
            ids.row_id(now),
            str(item.channel),
            item.account_id,
            clean_text(notice.event_key, 160),
            clean_text(notice.kind, 32),
            clean_text(notice.out_trade_no, 64),
            jsonb_text(notice.plaintext),
            now,
            _report_json(item.report),
            _report_json(item.refund),
            now + rules.inbox_pause(0),
            clean_text(repr(error), 200),
            item.message,
        ],
    )


async def redrive(*, now: datetime, limit: int) -> tuple[int, int]:
    """Settle up to `limit` waiting notices; (settled, failed again)."""
    rows = await _claim(now, limit)
    answers = await settle_reports([_item(row) for row in rows], now=now)
    failed = [
        (row, answer)
        for row, answer in zip(rows, answers, strict=True)
        if isinstance(answer, Exception)
    ]
    for row, failure in failed:
        await _note_failure(row, failure, now)
    return len(rows) - len(failed), len(failed)


async def hurry(*, now: datetime, given_up: bool) -> int:
    """Have waiting notices tried at once; with `given_up` also those that were given up get all
    their tries again. How many."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """update pay_notice set next_try_at = $1::timestamptz,
               tries = case when next_try_at is null then 0 else tries end
           where handled_at is null and (next_try_at is not null or $2) returning id""",
        [now, given_up],
    )
    return len(rows)


async def forget_messages(*, now: datetime) -> int:
    """Delete messages past their time, the oldest first and as many as go within a minute; how
    many. What they said and what became of it stays."""
    return await forget_in_rounds(partial(_forget, now), at_once=FORGET_AT_ONCE)


async def _forget(now: datetime, limit: int) -> int:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """with gone as (
             delete from pay_notice_message where id = any(array(
               select m.id from pay_notice_message m
               join pay_notice n on n.id = m.id and n.handled_at is not null
               where m.id < $1 order by m.id limit $2))
             returning 1)
           select count(*) as n from gone""",
        [ids.earliest_id(now - rules.MESSAGES_KEPT), limit],
    )
    return int(rows[0]["n"])


async def _claim(now: datetime, limit: int) -> Sequence[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        """update pay_notice n set tries = n.tries + 1, next_try_at = $1::timestamptz +
               least(interval '2 seconds' * power(2, least(n.tries + 1, 10)), interval '10 minutes')
           from (select id from pay_notice
                 where handled_at is null and next_try_at <= $1
                 order by next_try_at limit $2 for update skip locked) due
           where n.id = due.id
           returning n.id, n.channel, n.account_id, n.event_key, n.kind, n.out_trade_no,
                     n.plaintext::text as plaintext, n.report::text as report,
                     n.refund::text as refund, n.tries""",
        [now, limit],
    )
    return rows


def _item(row: dict[str, Any]) -> SettleItem:
    report, refund = _report(row["report"]), _refund(row["refund"])
    notice = VerifiedNotice(
        event_key=row["event_key"],
        kind=row["kind"],
        out_trade_no=row["out_trade_no"],
        report=report,
        plaintext=orjson.loads(row["plaintext"]),
        refund=refund,
    )
    return SettleItem(Channel(row["channel"]), row["account_id"], report, notice, refund)


async def _note_failure(row: dict[str, Any], failure: Exception, now: datetime) -> None:
    """Remember why; after the last try a person takes over."""
    is_last = row["tries"] >= rules.MAX_INBOX_TRIES
    async with in_transaction() as db:
        await db.execute_query_dict(
            """update pay_notice set last_error = $1,
               next_try_at = case when $2 then null else next_try_at end
               where id = $3 and handled_at is null""",
            [clean_text(repr(failure), 200), is_last, row["id"]],
        )
        if is_last:
            await put_incidents(db, [_given_up(row, failure)], now=now)


def _given_up(row: dict[str, Any], failure: Exception) -> IncidentNote:
    report = _report(row["report"])
    return IncidentNote(
        kind=IncidentKind.UNSETTLED_NEWS,
        channel=row["channel"],
        account_id=row["account_id"],
        out_trade_no=row["out_trade_no"],
        channel_trade_no=report.channel_trade_no if report else None,
        amount_fen=(report.paid_fen or 0) if report else 0,
        order_id=None,
        distinction=str(UUID(str(row["id"]))),
        evidence={"error": repr(failure)[:500], "plaintext": orjson.loads(row["plaintext"])},
        owner=OPERATOR,
    )


def _report_json(report: ChannelReport | RefundReport | None) -> str | None:
    """Without `raw`, which is the plaintext again."""
    if report is None:
        return None
    return jsonb_text({**msgspec.to_builtins(report), "raw": {}})


def _report(text: str | None) -> ChannelReport | None:
    return msgspec.json.decode(text, type=ChannelReport) if text else None


def _refund(text: str | None) -> RefundReport | None:
    return msgspec.json.decode(text, type=RefundReport) if text else None
