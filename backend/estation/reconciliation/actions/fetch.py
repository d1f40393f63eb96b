"""Gets each merchant account's bill of a day and keeps it, believed or not."""

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

import structlog
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.pay_channels import (
    BillRow,
    Channel,
    ChannelError,
    NoBill,
    ParsedBill,
    PayChannel,
)
from estation.reconciliation.rules import LegState, bills_are_due
from estation.services import Services
from estation.shared import ids
from estation.shared.crypto import Vault
from estation.shared.fields import MAX_FEN
from estation.shared.transactions import in_transaction
from estation.shared.turns import side_by_side

log = structlog.get_logger()

LINES_PER_INSERT = 10_000


@dataclass(frozen=True, slots=True)
class Leg:
    """One account's bill of one day. `reason` says why it is not simply proven; `file_id` and
    what follows are empty when there is no file."""

    account_id: str
    channel: str
    state: LegState
    reason: str = ""
    file_id: UUID | None = None
    sha256: str = ""
    byte_count: int = 0
    line_count: int = 0
    fetched_at: datetime | None = None
    proof: tuple[tuple[str, str, str], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _Kept:
    id: UUID
    sha256: str
    byte_count: int
    fetched_at: datetime
    line_count: int | None
    proof: tuple[tuple[str, str, str], ...]


async def fetch_day(day: date, *, services: Services, now: datetime) -> list[Leg]:
    """One leg per configured merchant account that has bills, ordered by account; never raises
    for a channel. A combining account has none: its sub-orders stand in their merchants' bills.

    The channels are asked side by side, so that a hanging one does not keep the other's bills
    waiting; one channel's accounts one after the other, for a bill may be large. May be repeated
    at will: the same bytes are the same row.
    """
    by_channel: dict[Channel, list[PayChannel]] = defaultdict(list)
    for account_id in sorted(services.channels):
        channel = services.channels[account_id]
        by_channel[channel.channel].append(channel)
    vault = services.vault
    legs = await side_by_side(
        list(by_channel.values()), lambda of: _fetch_legs(of, day, vault, now)
    )
    return sorted((leg for of_one in legs for leg in of_one), key=lambda leg: leg.account_id)


async def _fetch_legs(
    accounts: Sequence[PayChannel], day: date, vault: Vault, now: datetime
) -> list[Leg]:
    legs = [await _fetch_leg(account, day, vault, now) for account in accounts]
    return [leg for leg in legs if leg is not None]


async def _fetch_leg(channel: PayChannel, day: date, vault: Vault, now: datetime) -> Leg | None:
    try:
        # The channel may take seconds: no transaction is open while we wait.
        raw = await channel.download_bill(day)
    except ChannelError as trouble:
        if trouble.code == "NOT_OFFERED":
            return None
        leg = await _without_download(channel, day, trouble, now)
        log.warning("bill_not_fetched", account_id=leg.account_id, day=str(day), code=trouble.code)
        return leg
    kept = await _keep(channel, day, raw, vault, now)
    if kept.line_count is not None:
        return _leg(channel, kept, LegState.PROVEN)
    return await _read(channel, kept, raw)


async def _without_download(
    channel: PayChannel, day: date, trouble: ChannelError, now: datetime
) -> Leg:
    """A bill is never changed in place, so one that proved itself earlier still serves; only
    "there was no trade" contradicts it, and that is believed only when bills are due."""
    stored = await _newest_proven(channel.account_id, day)
    if isinstance(trouble, NoBill):
        if stored is None:
            state = LegState.EMPTY if bills_are_due(day, now) else LegState.MISSING
            return Leg(channel.account_id, channel.channel, state, trouble.code)
        return _leg(channel, stored, LegState.UNPROVEN, "渠道称当日无账单，但此前给出过账单")
    if stored is None:
        return Leg(channel.account_id, channel.channel, LegState.MISSING, trouble.code)
    return _leg(channel, stored, LegState.PROVEN, f"沿用已存账单（本次下载：{trouble.code}）")


async def _read(channel: PayChannel, kept: _Kept, raw: bytes) -> Leg:
    try:
        # 100,000 lines take a second or so: off the event loop.
        parsed = await asyncio.to_thread(_parse, channel, raw)
    except ValueError as unreadable:
        return _leg(channel, kept, LegState.UNPROVEN, str(unreadable)[:200])
    except Exception as surprise:
        # A file that breaks the reader is as unproven as one it refuses, and louder.
        log.exception("bill_reader_failed", account_id=channel.account_id, sha256=kept.sha256)
        return _leg(channel, kept, LegState.UNPROVEN, f"账单无法读取（{type(surprise).__name__}）")
    proof = tuple((name, ours, theirs) for name, (ours, theirs) in parsed.proof.items())
    if not parsed.is_proven:
        return _leg(channel, kept, LegState.UNPROVEN, "与账单自身汇总不一致", proof)
    await _store_lines(kept.id, parsed, proof)
    return _leg(channel, kept, LegState.PROVEN, "", proof, len(parsed.rows))


def _parse(channel: PayChannel, raw: bytes) -> ParsedBill:
    parsed = channel.parse_bill(raw)
    for row in parsed.rows:
        _check_storable(row)
    return parsed


def _check_storable(row: BillRow) -> None:
    texts = (row.out_trade_no, row.channel_trade_no, row.refund_no or "", row.state)
    if (
        row.kind not in {"payment", "refund"}
        or not 0 <= row.amount_fen <= MAX_FEN
        or abs(row.fee_fen_e3) > MAX_FEN * 1000
        or any(len(text) > 64 or "\0" in text for text in texts)
        or len(row.state) > 32
    ):
        raise ValueError(f"第 {row.line_no} 行：内容超出账单允许的范围")


def _leg(
    channel: PayChannel,
    kept: _Kept,
    state: LegState,
    reason: str = "",
    proof: tuple[tuple[str, str, str], ...] = (),
    line_count: int = 0,
) -> Leg:
    return Leg(
        account_id=channel.account_id,
        channel=channel.channel,
        state=state,
        reason=reason,
        file_id=kept.id,
        sha256=kept.sha256,
        byte_count=kept.byte_count,
        line_count=kept.line_count or line_count,
        fetched_at=kept.fetched_at,
        proof=proof or kept.proof,
    )


_FILE_COLUMNS = "id, sha256, byte_count, fetched_at, line_count, proof"


async def _keep(channel: PayChannel, day: date, raw: bytes, vault: Vault, now: datetime) -> _Kept:
    digest, sealed = await asyncio.to_thread(_digested_and_sealed, raw, vault)
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"""
        insert into channel_bill_file as f
            (id, channel, account_id, day, sha256, content, is_sealed, byte_count, fetched_at,
             seen_at)
        values ($1, $2, $3, $4, $5, $6, true, $7, $8, $8)
        on conflict (account_id, day, sha256)
            do update set seen_at = greatest(f.seen_at, excluded.seen_at)
        returning {_FILE_COLUMNS}
        """,  # noqa: S608  (a constant list of columns)
        [
            ids.row_id(now),
            channel.channel.value,
            channel.account_id,
            day,
            digest,
            sealed,
            len(raw),
            now,
        ],
    )
    return _kept(rows[0])


def _digested_and_sealed(raw: bytes, vault: Vault) -> tuple[str, bytes]:
    return hashlib.sha256(raw).hexdigest(), vault.seal_file(raw)


async def _newest_proven(account_id: str, day: date) -> _Kept | None:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        f"""select {_FILE_COLUMNS} from channel_bill_file
            where account_id = $1 and day = $2 and line_count is not null
            order by seen_at desc, sha256 limit 1""",  # noqa: S608  (a constant list of columns)
        [account_id, day],
    )
    return _kept(rows[0]) if rows else None


def _kept(row: dict[str, Any]) -> _Kept:
    proof = json.loads(row["proof"]) if isinstance(row["proof"], str) else row["proof"]
    return _Kept(
        id=row["id"],
        sha256=row["sha256"],
        byte_count=row["byte_count"],
        fetched_at=row["fetched_at"],
        line_count=row["line_count"],
        proof=tuple((name, ours, theirs) for name, ours, theirs in proof or ()),
    )


async def _store_lines(
    file_id: UUID, parsed: ParsedBill, proof: tuple[tuple[str, str, str], ...]
) -> None:
    """All lines of a proven file or none. A second reader waits and finds them stored."""
    async with in_transaction() as db:
        stored = await db.execute_query_dict(
            "select line_count from channel_bill_file where id = $1 for update", [file_id]
        )
        if stored[0]["line_count"] is not None:
            return
        rows = parsed.rows
        for start in range(0, len(rows), LINES_PER_INSERT):
            await _insert_lines(db, file_id, rows[start : start + LINES_PER_INSERT])
        await db.execute_query(
            """update channel_bill_file set line_count = $2, proof = $3::jsonb,
                   settlement_fen = $4 where id = $1""",
            [file_id, len(rows), json.dumps(proof, ensure_ascii=False), parsed.settlement_fen],
        )


async def _insert_lines(db: BaseDBAsyncClient, file_id: UUID, rows: Sequence[BillRow]) -> None:
    await db.execute_query(
        """
        insert into channel_bill_line (bill_file_id, line_no, kind, out_trade_no,
            channel_trade_no, refund_no, amount_fen, fee_fen_e3, at, state)
        select $1, * from unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::text[],
            $7::bigint[], $8::bigint[], $9::timestamptz[], $10::text[])
        """,
        [
            file_id,
            [row.line_no for row in rows],
            [row.kind for row in rows],
            [row.out_trade_no for row in rows],
            [row.channel_trade_no for row in rows],
            [row.refund_no for row in rows],
            [row.amount_fen for row in rows],
            [row.fee_fen_e3 for row in rows],
            [row.at for row in rows],
            [row.state for row in rows],
        ],
    )
