"""Telling the centres what a channel's bill proves of payments of their bills.

Called when a day is reconciled, and for money that is applied to its bill after that; never while
a payment settles. Told once for each file and line: the same day reconciled again tells nothing
new.
"""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import to_builtins
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.outside.gate.rows import PaymentEvidenceRow
from estation.outside.pay_channels.payers import MARK, open_payers
from estation.payments.refund_rules import APPLICABLE
from estation.shared import ids, outbox
from estation.shared.crypto import Vault

TOPIC = "payment_evidence"
_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class ProvenLine:
    """A line of a proven bill and the payment in our ledger it was matched with at `proved_at`.

    Of money that was applied late the payment is what took it out of suspense: the receipt's.
    """

    transfer_id: UUID
    order_id: UUID
    account_id: str
    channel: str
    out_trade_no: str
    channel_trade_no: str
    amount_fen: int
    at: datetime
    day: date
    file_digest: str
    file_line: int
    proved_at: datetime


_SAID_SO = ("applied", "repeated", *sorted(APPLICABLE))
"""What became of notices that told of a payment's success, also where it came too late."""

# Of a part of a combined payment only the bills that owe its payee something. WeChat Pay tells of
# a refund alone under the payment's number: that proves no payment.
_NEWS = """
with given as (select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int[])
                 as g (transfer_id, order_id, out_trade_no, file_digest, file_line))
select g.transfer_id, ob.bill_id, ob.bill_no, b.source, b.source_id, p.order_no,
       share.fen as bill_fen, coalesce(told.version, 0) as version,
       notice.event_key as notice_id, notice.plaintext::text as notice,
       notice.received_at as noticed_at
from given g
  join pay_order p on p.id = g.order_id
  join pay_order_bill ob on ob.order_id = g.order_id
  join bill b on b.id = ob.bill_id
  left join lateral (
    select one ->> 'payee_code' as payee_code
    from pay_attempt a, jsonb_array_elements(a.parts) one
    where a.order_id = g.order_id and one ->> 'out_trade_no' = g.out_trade_no limit 1) part on true
  join lateral (
    select sum(s.amount_fen)::bigint as fen from pay_order_split s
    where s.order_id = g.order_id and s.bill_id = ob.bill_id
      and s.payee_code = coalesce(part.payee_code, s.payee_code)) share on share.fen > 0
  left join lateral (
    select e.version, e.file_digest, e.file_line from payment_evidence e
    where e.transfer_id = g.transfer_id and e.bill_id = ob.bill_id
    order by e.version desc limit 1) told on true
  left join lateral (
    select n.event_key, n.plaintext, n.received_at
    from pay_attempt a join pay_notice n on n.out_trade_no = a.out_trade_no
    where a.order_id = g.order_id and a.state = 'paid' and n.account_id = a.account_id
      and (a.out_trade_no = g.out_trade_no or part.payee_code is not null
           and a.parts @> jsonb_build_array(jsonb_build_object('out_trade_no', g.out_trade_no)))
      and n.outcome = any($6::text[]) and n.refund is null and n.kind not like 'REFUND.%'
    order by n.received_at, n.id limit 1) notice on true
where told.version is null or (told.file_digest, told.file_line) <> (g.file_digest, g.file_line)
order by g.transfer_id, ob.bill_no
"""


async def put_evidence(
    db: BaseDBAsyncClient, lines: Iterable[ProvenLine], *, vault: Vault, now: datetime
) -> int:
    """Keep and send what is new of it; how many rows. Joins the caller's transaction.

    `vault` opens what names the payer in a notice: its digest is that of the channel's own words.
    """
    told = 0
    waiting = iter(lines)
    while some := {line.transfer_id: line for line in itertools.islice(waiting, _AT_ONCE)}:
        told += await _put(db, some, vault, now, before=told)
    return told


async def _put(
    db: BaseDBAsyncClient,
    lines: dict[UUID, ProvenLine],
    vault: Vault,
    now: datetime,
    *,
    before: int,
) -> int:
    some = list(lines.values())
    news = await db.execute_query_dict(
        _NEWS,
        [
            [line.transfer_id for line in some],
            [line.order_id for line in some],
            [line.out_trade_no for line in some],
            [line.file_digest for line in some],
            [line.file_line for line in some],
            list(_SAID_SO),
        ],
    )
    if not news:
        return 0
    bodies = [to_builtins(_row(lines[one["transfer_id"]], one, vault)) for one in news]
    await db.execute_query(
        """insert into payment_evidence
             (id, transfer_id, bill_id, version, file_digest, file_line, said, at)
           select id, transfer_id, bill_id, version, said ->> 'file_digest',
                  (said ->> 'file_line')::int, said, $1
           from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::int[], $6::text[]::jsonb[])
             as given (id, transfer_id, bill_id, version, said)""",
        [
            now,
            ids.row_ids(now, len(news)),
            [one["transfer_id"] for one in news],
            [one["bill_id"] for one in news],
            [body["version"] for body in bodies],
            [msgspec.json.encode(body).decode() for body in bodies],
        ],
    )
    await outbox.put_many(TOPIC, bodies, now=now, before=before)
    return len(bodies)


def _row(line: ProvenLine, one: dict[str, Any], vault: Vault) -> PaymentEvidenceRow:
    has_notice = one["notice_id"] is not None
    return PaymentEvidenceRow(
        source=one["source"],
        source_id=one["source_id"],
        version=one["version"] + 1,
        bill_no=one["bill_no"],
        order_no=one["order_no"],
        out_trade_no=line.out_trade_no,
        channel=line.channel,
        merchant_id=line.account_id.partition(":")[2],
        channel_trade_no=line.channel_trade_no,
        paid_at=line.at,
        amount_fen=line.amount_fen,
        bill_fen=one["bill_fen"],
        channel_day=line.day,
        file_digest=line.file_digest,
        file_line=line.file_line,
        proved_at=line.proved_at,
        notice_id=one["notice_id"] if has_notice else "",
        notice_digest=_digest(one["notice"], vault) if has_notice else "",
        noticed_at=one["noticed_at"] if has_notice else None,
        transfer_id=str(line.transfer_id),
    )


def _digest(notice: str, vault: Vault) -> str:
    """Of the words as the channel said them; "" where our key does not open them any more."""
    said = open_payers(vault, msgspec.json.decode(notice))
    spelt = msgspec.json.encode(said, order="sorted")
    return "" if MARK.encode() in spelt else hashlib.sha256(spelt).hexdigest()
