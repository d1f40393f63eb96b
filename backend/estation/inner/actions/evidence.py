"""Keeping what the channels' bills prove of payments: newest versions, and all that ever came.

Evidence changes no bill: a receipt says what is paid, this says by what it is proved.
"""

import itertools
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import structlog
from tortoise import Tortoise

from estation.inner.rules import EvidenceAttention
from estation.outside.gate.rows import PaymentEvidenceRow, ReceiptRow
from estation.shared import ids

log = structlog.get_logger()

KEY = "source_id || ':' || order_no || ':' || out_trade_no"
"""SQL: what the gate calls evidence of a source."""

_JUDGED = """case when r.id is null then {unknown}
            when (said ->> 'bill_fen')::bigint > r.amount_fen then {more} else '' end"""
"""SQL: what to say of evidence by its receipt `r`; `unknown` and `more` are parameters."""

_GIVEN = """
given as (
  select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[],
                       $7::text[]::jsonb[], $8::bytea[])
    as g (id, source, source_id, order_no, out_trade_no, version, said, row_digest))
"""

_HISTORY = f"""
with {_GIVEN}
insert into fee_payment_evidence_version
  (id, source, source_id, order_no, out_trade_no, version, said, row_digest, packet_seq,
   received_at)
select id, source, source_id, order_no, out_trade_no, version, said, row_digest, $9, $10
from given on conflict do nothing
"""  # noqa: S608 - constants

_CONTRADICTED = f"""
with {_GIVEN}
update fee_payment_evidence e set attention = $9
from given g
where (e.source, e.source_id, e.order_no, e.out_trade_no, e.version)
    = (g.source, g.source_id, g.order_no, g.out_trade_no, g.version)
  and e.said <> g.said
  and e.attention <> $10
returning e.order_no
"""  # noqa: S608 - constants

_NEWEST = f"""
with {_GIVEN}
insert into fee_payment_evidence as e
  (id, source, source_id, order_no, out_trade_no, bill_id, version, said, row_digest, packet_seq,
   received_at, attention)
select g.id, g.source, g.source_id, g.order_no, g.out_trade_no, b.id, g.version, g.said,
       g.row_digest, $9, $10, {_JUDGED.format(unknown="$11", more="$12")}
from (select distinct on (source, source_id, order_no, out_trade_no) * from given
      order by source, source_id, order_no, out_trade_no, version desc) g
  left join fee_bill b on b.bill_no = g.source_id and g.source = $13
  left join fee_receipt r on (r.source, r.source_id, r.order_no)
                           = (g.source, g.source_id, g.order_no)
on conflict (source, source_id, order_no, out_trade_no) do update
set bill_id = excluded.bill_id, version = excluded.version, said = excluded.said,
    row_digest = excluded.row_digest, packet_seq = excluded.packet_seq,
    received_at = excluded.received_at, attention = excluded.attention
where e.version < excluded.version or e.attention = $14 or $15
returning e.order_no, e.attention
"""  # noqa: S608 - constants

_AGAIN = f"""
update fee_payment_evidence e
set attention = {_JUDGED.format(unknown="$4::text", more="$5::text")}
from unnest($1::text[], $2::text[], $3::text[]) as k (source, source_id, order_no)
  join fee_receipt r using (source, source_id, order_no)
where (e.source, e.source_id, e.order_no) = (k.source, k.source_id, k.order_no)
  and e.attention in ($4::text, $5::text)
"""  # noqa: S608 - constants


async def keep_evidence(
    given: Sequence[PaymentEvidenceRow],
    *,
    source: str,
    packet_seq: int,
    now: datetime,
    digests: Sequence[bytes] = (),
    repairs: bool = False,
) -> None:
    """Newer versions win, what `repairs` wins always; none is refused. Joins the caller's
    transaction. `digests`: of the rows as they came."""
    if not given:
        return
    db = Tortoise.get_connection("default")
    values = _columns(given, digests, now)
    await db.execute_query(_HISTORY, [*values, packet_seq, now])
    if not repairs:
        contradicted = await db.execute_query_dict(
            _CONTRADICTED,
            [*values, EvidenceAttention.CONTRADICTED.value, EvidenceAttention.NEVER_SENT.value],
        )
        for row in contradicted:
            log.error("evidence_contradicted", order_no=row["order_no"])
    newest = await db.execute_query_dict(
        _NEWEST,
        [
            *values,
            packet_seq,
            now,
            EvidenceAttention.UNKNOWN_PAYMENT.value,
            EvidenceAttention.MORE_THAN_PAID.value,
            source,
            EvidenceAttention.NEVER_SENT.value,
            repairs,
        ],
    )
    for row in newest:
        if row["attention"]:
            log.warning(
                "evidence_needs_attention", order_no=row["order_no"], reason=row["attention"]
            )
    log.info("evidence_kept", rows=len(given))


async def judge_again(receipts: Sequence[ReceiptRow]) -> None:
    """A receipt may come behind its evidence: written again, or healed. Joins the caller's
    transaction."""
    await Tortoise.get_connection("default").execute_query(
        _AGAIN,
        [
            [row.source for row in receipts],
            [row.source_id for row in receipts],
            [row.order_no for row in receipts],
            EvidenceAttention.UNKNOWN_PAYMENT.value,
            EvidenceAttention.MORE_THAN_PAID.value,
        ],
    )


async def set_aside(source: str, keys: Sequence[str], *, now: datetime) -> None:
    """Evidence the online side does not know proves nothing, and waits for a person.

    `keys`: as the gate names them. Joins the caller's transaction.
    """
    await Tortoise.get_connection("default").execute_query(
        f"""update fee_payment_evidence set attention = $1
           where source = $2 and {KEY} = any($3::text[])""",  # noqa: S608 - names of our own
        [EvidenceAttention.NEVER_SENT.value, source, list(keys)],
    )
    log.error("evidence_never_sent", source=source, rows=len(keys), at=now.isoformat())


def _columns(
    given: Sequence[PaymentEvidenceRow], digests: Sequence[bytes], now: datetime
) -> list[list[Any]]:
    pairs = list(itertools.zip_longest(given, digests))
    return [
        list(ids.row_ids(now, len(pairs))),
        [row.source for row, _ in pairs],
        [row.source_id for row, _ in pairs],
        [row.order_no for row, _ in pairs],
        [row.out_trade_no for row, _ in pairs],
        [row.version for row, _ in pairs],
        [msgspec.json.encode(row).decode() for row, _ in pairs],
        [digest for _, digest in pairs],
    ]
