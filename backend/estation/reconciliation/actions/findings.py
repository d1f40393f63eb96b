"""Writes down what the matching found: differences, totals that tie, digests."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

import orjson
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.reconciliation.actions.fetch import Leg
from estation.reconciliation.errors import RunDoesNotTie
from estation.reconciliation.queries import Settlement, settlement_of
from estation.reconciliation.rules import (
    BLOCKED,
    LEG_FINDING,
    MATCHED,
    REFUND_FATES,
    REFUND_MATCHED,
    Kind,
    LegState,
)

_MOMENT = """to_char({} at time zone 'Asia/Shanghai', 'YYYY-MM-DD"T"HH24:MI:SS.US"+08:00"')"""

_MICROSECONDS = "(extract(epoch from {}) * 1000000)::bigint"

_THEIRS = f"""jsonb_build_object('day', t.day, 'line_no', t.line_no, 'kind', t.kind,
    'channel_trade_no', t.channel_trade_no, 'refund_no', t.refund_no, 'amount_fen', t.amount_fen,
    'fee_fen_e3', t.fee_fen_e3, 'at', {_MOMENT.format("t.at")}, 'state', t.state)"""
_OURS = f"""jsonb_build_object('day', o.day, 'transfer_id', o.transfer_id, 'kind', o.kind,
    'order_id', o.order_id, 'channel_trade_no', o.channel_trade_no, 'amount_fen', o.amount_fen,
    'at', {_MOMENT.format("o.occurred_at")})"""

_WRITE = f"""
with found as (
    select t.line_id, c.transfer_id, t.fate from theirs t left join claim c using (line_id)
    where t.day = $2 and t.fate not in ('{MATCHED}', '{REFUND_MATCHED}')
    union
    select c.line_id, o.transfer_id, o.fate from ours o left join claim c using (transfer_id)
    where o.day = $2 and o.fate not in ('{MATCHED}', '{BLOCKED}', '{Kind.UNKNOWN_MERCHANT}')
)
insert into reconciliation_difference
    (id, run_id, kind, channel, account_id, out_trade_no, our_fen, their_fen, evidence)
select gen_random_uuid(), $1, f.fate,
       split_part(coalesce(t.account_id, o.account_id), ':', 1),
       coalesce(t.account_id, o.account_id), coalesce(t.out_trade_no, o.out_trade_no),
       coalesce(o.amount_fen, t.our_refund_fen), t.amount_fen,
       jsonb_build_object('theirs', case when t.line_id is not null then {_THEIRS} end,
                          'ours', case when o.transfer_id is not null then {_OURS} end)
from found f left join theirs t on t.line_id = f.line_id
             left join ours o on o.transfer_id = f.transfer_id
"""  # noqa: S608  (our own constants)


@dataclass(slots=True)
class Side:
    """One side of one account on the day: fate -> [count, fen]; payments and refunds apart."""

    fates: dict[str, list[int]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(count for count, _ in self.fates.values())

    @property
    def fen(self) -> int:
        """Payments only: a refund never cancels a payment out."""
        return sum(fen for fate, (_, fen) in self.fates.items() if fate not in REFUND_FATES)

    def part(self, fate: str) -> list[int]:
        return self.fates.get(fate, [0, 0])


@dataclass(slots=True)
class Sides:
    theirs: Side = field(default_factory=Side)
    ours: Side = field(default_factory=Side)


async def totals(db: BaseDBAsyncClient, day: date) -> dict[str, Sides]:
    """Per account what became of each fen of the day on both sides.

    Raises RunDoesNotTie when a row was left without a fate, or the matched sums of the two sides
    differ: such a result must not be written.
    """
    sides: dict[str, Sides] = {}
    for side in ("theirs", "ours"):
        rows = await db.execute_query_dict(
            f"""select account_id, fate, count(*) as lines, sum(amount_fen)::bigint as fen
                from {side} where day = $1 group by account_id, fate""",  # noqa: S608
            [day],
        )
        for row in rows:
            if row["fate"] is None:
                raise RunDoesNotTie(f"{row['lines']} rows of {side} have no fate")
            one: Side = getattr(sides.setdefault(row["account_id"], Sides()), side)
            one.fates[row["fate"]] = [row["lines"], row["fen"]]
    for account_id, both in sides.items():
        for fate in (MATCHED, Kind.IN_SUSPENSE):
            if both.theirs.part(fate) != both.ours.part(fate):
                raise RunDoesNotTie(f"{fate} of {account_id}")
    return sides


async def settlements(legs: Sequence[Leg]) -> dict[str, Settlement]:
    """What is expected of each account whose bill proved itself."""
    return {
        leg.account_id: await settlement_of(leg.file_id)
        for leg in legs
        if leg.state is LegState.PROVEN and leg.file_id
    }


async def write_differences(
    db: BaseDBAsyncClient,
    run_id: UUID,
    day: date,
    legs: Sequence[Leg],
    sides: dict[str, Sides],
    settled: dict[str, Settlement],
) -> None:
    """Rows with both sides' evidence; one row per leg that blocks, one per unknown account, one
    per bill whose own total is another than that of its lines."""
    await db.execute_query(_WRITE, [run_id, day])
    said: dict[str, Any]
    for leg in legs:
        if leg.state in LEG_FINDING:
            ours = sides.get(leg.account_id, Sides()).ours
            said = {"reason": leg.reason, "sha256": leg.sha256, "proof": leg.proof}
            kind = LEG_FINDING[leg.state]
            await _write_one(db, run_id, kind, leg.account_id, ours.fen, {"leg": said})
    for account_id, both in sides.items():
        if Kind.UNKNOWN_MERCHANT in both.ours.fates:
            kind = Kind.UNKNOWN_MERCHANT
            said = {"count": both.ours.count}
            await _write_one(db, run_id, kind, account_id, both.ours.fen, {"account": said})
    for account_id, one in settled.items():
        if one.differs:
            said = {"settlement": settlement_report(one)}
            kind = Kind.SETTLEMENT_DIFFERS
            await _write_one(
                db, run_id, kind, account_id, one.net_fen, said, their_fen=one.stated_fen
            )


async def _write_one(
    db: BaseDBAsyncClient,
    run_id: UUID,
    kind: Kind,
    account_id: str,
    our_fen: int,
    evidence: dict[str, Any],
    *,
    their_fen: int | None = None,
) -> None:
    await db.execute_query(
        """insert into reconciliation_difference
               (id, run_id, kind, channel, account_id, out_trade_no, our_fen, their_fen, evidence)
           values (gen_random_uuid(), $1, $2, split_part($3, ':', 1), $3, '', $4, $5, $6::jsonb)""",
        [run_id, kind, account_id, our_fen, their_fen, orjson.dumps(evidence).decode()],
    )


@dataclass(frozen=True, slots=True)
class Digests:
    input: str
    result: str


async def digests(
    db: BaseDBAsyncClient,
    run_id: UUID,
    day: date,
    *,
    legs: Sequence[Leg],
    neighbour_hashes: Sequence[str],
    rules_version: str,
) -> Digests:
    """`result` is the same for the same facts in any order; `input` names the very files."""
    theirs = await _content(db, _CONTENT_THEIRS, [day])
    ours = await _content(db, _CONTENT_OURS, [day])
    found = await _content(db, _CONTENT_FOUND, [run_id])
    states = [[leg.account_id, leg.state] for leg in legs]
    return Digests(
        input=_hash(
            [
                str(day),
                [[leg.account_id, leg.state, leg.sha256] for leg in legs],
                sorted(neighbour_hashes),
                ours,
            ]
        ),
        result=_hash([str(day), rules_version, states, theirs, ours, found]),
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value)).hexdigest()


# jsonb arrays are an injective encoding: different rows never have equal text.
_CONTENT_THEIRS = f"""select jsonb_build_array(account_id, kind, out_trade_no, channel_trade_no,
    refund_no, amount_fen, fee_fen_e3, {_MICROSECONDS.format("at")}, state) as said
    from theirs where day = $1"""  # noqa: S608
_CONTENT_OURS = f"""select jsonb_build_array(account_id, kind, order_id, out_trade_no,
    channel_trade_no, amount_fen, {_MICROSECONDS.format("occurred_at")}) as said
    from ours where day = $1"""  # noqa: S608
# Where a line stood in its file and which of two equal rows was left over are not content.
_CONTENT_FOUND = """select jsonb_build_array(kind, account_id, out_trade_no, our_fen, their_fen,
    evidence #- '{theirs,line_no}' #- '{ours,transfer_id}' #- '{leg,sha256}') as said
    from reconciliation_difference where run_id = $1"""


async def _content(db: BaseDBAsyncClient, rows: str, arguments: list[object]) -> str:
    """SHA-256 over a bag of rows, whatever their order: hashes sorted in 256 buckets, so that
    no single text grows with the day."""
    answer = await db.execute_query_dict(
        f"""
        with hashed as (
            select encode(sha256(convert_to(said::text, 'UTF8')), 'hex') collate "C" as h
            from ({rows}) r
        ), bucket as (
            select left(h, 2) as b, sha256(convert_to(string_agg(h, '' order by h), 'UTF8')) as d
            from hashed group by 1
        ), told as (
            select coalesce(string_agg(b || encode(d, 'hex'), '' order by b), '') as said
            from bucket
        )
        select encode(sha256(convert_to(said, 'UTF8')), 'hex') as digest from told
        """,  # noqa: S608
        arguments,
    )
    return str(answer[0]["digest"])


def settlement_report(one: Settlement) -> dict[str, Any]:
    """What the run keeps of it."""
    return {**asdict(one), "net_fen": one.net_fen}


def leg_report(leg: Leg, sides: Sides, settled: Settlement | None, *, name: str) -> dict[str, Any]:
    """What the run keeps of a leg: its proof, where each fen of both sides went, and what the
    channel is expected to pay out."""
    return {
        "account_id": leg.account_id,
        "channel": leg.channel,
        "name": name,
        "state": leg.state,
        "reason": leg.reason,
        "file_id": str(leg.file_id) if leg.file_id else None,
        "sha256": leg.sha256,
        "byte_count": leg.byte_count,
        "line_count": leg.line_count,
        "fetched_at": _iso(leg.fetched_at),
        "proof": [list(line) for line in leg.proof],
        "theirs": sides.theirs.fates,
        "ours": sides.ours.fates,
        "their_fen": sides.theirs.fen,
        "our_fen": sides.ours.fen,
        "settlement": settlement_report(settled) if settled else None,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def check_counts(legs: Sequence[Leg], sides: dict[str, Sides]) -> None:
    """Every line of every proven file was looked at. Raises RunDoesNotTie."""
    for leg in legs:
        seen = sides.get(leg.account_id, Sides()).theirs.count
        if leg.state is LegState.PROVEN and seen != leg.line_count:
            raise RunDoesNotTie(f"{leg.account_id}: {leg.line_count} lines, {seen} decided")
