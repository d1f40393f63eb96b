"""Open orders with bills, shares and live attempts, made set by set."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import asyncpg

from estation.bench.notices import amount_fen, trade_number

_ORDERS = """
insert into pay_order (id, order_no, region, payer_id, amount_fen, state, created_at, expires_at,
                       close_reason)
select order_id, number, '360101', payer_id, fen, 'open', now(), now() + interval '1 hour', ''
from made"""

_STEPS = (
    """create temp table made as
       select *, uuidv7() as order_id, uuidv7() as bill_id,
              uuidv7() as payer_id
       from unnest($1::text[], $2::bigint[]) as t(number, fen)""",
    """insert into bill (id, source, source_id, version, region, bill_no, case_source_id, payer_id,
                         title, state, total_fen, issued_at, data_as_of)
       select bill_id, 'bench', number, 1, '360101', number, 'case', payer_id, '存量房买卖税费',
              'payable', fen, now(), now() from made""",
    """insert into bill_item (id, bill_id, version, seq, code, name, payee_code, rate, relief_fen,
                              amount_fen, formula, legal_basis, note)
       select uuidv7(), bill_id, 1, seq, code, name, payee, '', 0,
              case when seq = 1 then fen - 8000 else 8000 end, '', '', ''
       from made, (values (1, 'deed_tax', '契税', 'treasury'),
                          (2, 'registration', '登记费', 'non_tax')) as i(seq, code, name, payee)""",
    _ORDERS,
    """insert into pay_order_bill (id, order_id, bill_id, bill_no, title, bill_version, amount_fen,
                                   is_open)
       select uuidv7(), order_id, bill_id, number, '存量房买卖税费', 1, fen, true
       from made""",
    """insert into pay_order_split (id, order_id, bill_id, payee_code, payee_name, amount_fen,
                                    receipt_no)
       select uuidv7(), order_id, bill_id, payee, payee,
              case when seq = 1 then fen - 8000 else 8000 end, number || '-' || seq
       from made, (values (1, 'treasury'), (2, 'non_tax')) as i(seq, payee)""",
    """insert into pay_attempt (id, order_id, channel, account_id, scene, out_trade_no, amount_fen,
                                state, ticket, created_at, expires_at, next_query_at, queries,
                                refusal, close_reason)
       select uuidv7(), order_id, 'wechat_pay', $1, 'native', number, fen, 'open',
              '{"qr_content": "weixin://wxpay/bizpayurl?pr=bench"}', now(),
              now() + interval '1 hour', now() + interval '10 minutes', 0, '', '' from made""",
)

_HISTORY = (
    """create temp table past as
       select n, uuidv7() as order_id, uuidv7() as bill_id, uuidv7() as transfer_id,
              'PAST' || lpad(n::text, 12, '0') as number, 9000 + n % 1000 as fen,
              now() - interval '1 day' as at
       from generate_series($2::int + 1, $3::int) as n where $1::text <> ''""",
    """insert into bill (id, source, source_id, version, region, bill_no, case_source_id, payer_id,
                         title, state, total_fen, issued_at, data_as_of, paid_at, paid_version)
       select bill_id, 'bench', number, 1, '360101', number, 'case', uuidv7(), '存量房买卖税费',
              'paid', fen, at, at, at, 1 from past""",
    """insert into pay_order (id, order_no, region, payer_id, amount_fen, state, created_at,
                              expires_at, paid_at, close_reason)
       select order_id, number, '360101', uuidv7(), fen, 'paid', at, at, at, '' from past""",
    """insert into pay_order_bill (id, order_id, bill_id, bill_no, title, bill_version, amount_fen,
                                   is_open)
       select uuidv7(), order_id, bill_id, number, '存量房买卖税费', 1, fen, false from past""",
    """insert into pay_order_split (id, order_id, bill_id, payee_code, payee_name, amount_fen,
                                    receipt_no)
       select uuidv7(), order_id, bill_id, payee, payee,
              case when seq = 1 then fen - 8000 else 8000 end, number || '-' || seq
       from past, (values (1, 'treasury'), (2, 'non_tax')) as i(seq, payee)""",
    """insert into pay_attempt (id, order_id, channel, account_id, scene, out_trade_no, amount_fen,
                                state, channel_trade_no, paid_fen, paid_at, created_at, expires_at,
                                queries, refusal, close_reason)
       select uuidv7(), order_id, 'wechat_pay', $1, 'native', number, fen, 'paid', number, fen,
              at, at, at, 0, '', '' from past""",
    """insert into ledger_transfer (id, idempotency_key, input_hash, kind, region, order_id, our_no,
                                    channel_no, occurred_at, posted_at)
       select transfer_id, 'arrival:' || $1 || ':' || number, md5(number), 'payment', '360101',
              order_id, number, number, at, at from past""",
    """insert into ledger_entry (id, transfer_id, account, debit_fen, credit_fen)
       select uuidv7(), transfer_id, account, debit, credit
       from past, lateral (values ('channel_clearing:' || $1, fen, 0),
                                  ('payee_payable:treasury', 0, fen - 8000),
                                  ('payee_payable:non_tax', 0, 8000)) as leg(account, debit, credit)
    """,
    """insert into pay_notice (id, channel, account_id, event_key, kind, out_trade_no, plaintext,
                               received_at, handled_at, outcome, tries, last_error)
       select uuidv7(), 'wechat_pay', $1, number, 'TRANSACTION.SUCCESS', number,
              '{"trade_state": "SUCCESS"}', at, at, 'applied', 0, '' from past""",
    """insert into outbox_message (id, topic, body, created_at, not_before, sent_at, tries,
                                   last_error)
       select uuidv7(), 'receipt', '{}', at, at, at, 1, '' from past""",
    "drop table past",
)
# A city that has been running: empty tables would lead the planner astray for the whole run.


PAST = 20_000
"""Orders settled before the run, unless the run asks for another history."""

CHUNK = 100_000
HANDS = 2
"""Connections that make history side by side."""


async def make_orders(dsn: str, *, count: int, account_id: str, first: int = 0) -> None:
    """`count` orders of two payees, numbered from `first`, whose live attempts will be paid."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        for step in _STEPS:
            await connection.execute(step, *_arguments(step, first, count, account_id))
        await connection.execute("drop table made")
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


async def make_history(dsn: str, *, last: int, account_id: str, first: int = 0) -> None:
    """Settled orders with everything that belongs to them, numbers first+1 … last."""
    chunks = iter([(low, min(low + CHUNK, last)) for low in range(first, last, CHUNK)])
    await asyncio.gather(*(_make_chunks(dsn, chunks, account_id) for _ in range(HANDS)))


async def _make_chunks(dsn: str, chunks: Iterator[tuple[int, int]], account_id: str) -> None:
    connection: Any = await asyncpg.connect(dsn, command_timeout=3600)
    try:
        # Its rows fit by construction: looking each foreign key up takes a third of the time.
        await connection.execute("set session_replication_role = replica")
        await connection.execute("set synchronous_commit = off")
        for low, high in chunks:
            for step in _HISTORY:
                await connection.execute(step, *_needed(step, [account_id, low, high]))
    finally:
        await connection.close()


class Reconciliation(NamedTuple):
    """What was sent and accepted against the database, trade number by trade number.

    `missing`: sent, and no money of it is on the books. `doubled`: on the books more than once.
    `conflicting`: once, but not as it was sent: another amount, set aside, its order, attempt or
    bill not paid, or sent by nobody. `unbalanced_fen`: debits less credits of all entries.
    """

    sent: int
    sent_fen: int
    missing: list[str]
    doubled: list[str]
    conflicting: list[str]
    unbalanced_fen: int

    @property
    def is_whole(self) -> bool:
        return not (self.missing or self.doubled or self.conflicting or self.unbalanced_fen)

    def counts(self) -> dict[str, int]:
        """For a program that reads the outcome."""
        return {
            "sent": self.sent,
            "sent_fen": self.sent_fen,
            "missing": len(self.missing),
            "doubled": len(self.doubled),
            "conflicting": len(self.conflicting),
            "unbalanced_fen": self.unbalanced_fen,
        }

    def words(self) -> str:
        """For people; of each kind the first few numbers."""
        told = [f"{self.sent:,} sent ({self.sent_fen:,} fen)"]
        for name in ("missing", "doubled", "conflicting"):
            numbers: list[str] = getattr(self, name)
            shown = f" ({', '.join(numbers[:SHOWN])}{' …' if numbers[SHOWN:] else ''})"
            told.append(f"{len(numbers)} {name}{shown if numbers else ''}")
        return f"{', '.join(told)}, {self.unbalanced_fen} fen out of balance"


SHOWN = 5

_FOUND = """
with money as (
    select t.our_no, t.kind, sum(e.debit_fen) as fen
    from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
    where t.our_no like 'BENCH%' and t.kind in ('payment', 'suspense')
      and e.account like 'channel_clearing:%'
    group by t.id
), arrivals as (
    select our_no, json_agg(json_build_array(kind, fen)) as transfers from money group by our_no
)
select coalesce(a.out_trade_no, m.our_no) as number, coalesce(m.transfers, '[]')::text as transfers,
       a.state = 'paid' and o.state = 'paid' and b.state = 'paid' as is_paid,
       array[a.paid_fen, o.amount_fen, b.total_fen] as sums
from (select * from pay_attempt where out_trade_no like 'BENCH%') a
full join arrivals m on m.our_no = a.out_trade_no
left join pay_order o on o.id = a.order_id
left join pay_order_bill l on l.order_id = o.id
left join bill b on b.id = l.bill_id
"""
# Money may be on the books under a number of which there is no attempt, and the other way round.


async def reconcile(dsn: str, sent: Mapping[str, int]) -> Reconciliation:
    """`sent`: the fen of each trade number whose success was sent, and answered with 200."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        found = await connection.fetch(_FOUND)
        unbalanced = await connection.fetchval(
            "select coalesce(sum(debit_fen) - sum(credit_fen), 0) from ledger_entry"
        )
    finally:
        await connection.close()
    stored = {row["number"]: row for row in found}
    missing, doubled, conflicting = list[str](), list[str](), list[str]()
    for number in sorted(sent.keys() | stored.keys()):
        row = stored.get(number)
        transfers = json.loads(row["transfers"]) if row else []
        if not transfers:
            if number in sent:
                missing.append(number)
            elif row and row["is_paid"]:
                conflicting.append(number)
        elif len(transfers) > 1:
            doubled.append(number)
        elif not _is_as_sent(row, transfers[0], sent.get(number)):
            conflicting.append(number)
    total_fen = sum(sent.values())
    return Reconciliation(len(sent), total_fen, missing, doubled, conflicting, int(unbalanced))


def _is_as_sent(row: Any, transfer: list[Any], fen: int | None) -> bool:
    return bool(row["is_paid"]) and transfer == ["payment", fen] and set(row["sums"]) == {fen}


def _arguments(step: str, first: int, count: int, account_id: str) -> list[object]:
    if "$2" in step:
        numbers = range(first, first + count)
        return [[trade_number(n) for n in numbers], [amount_fen(n) for n in numbers]]
    return [account_id] if "$1" in step else []


def _needed(step: str, arguments: list[Any]) -> list[Any]:
    """A prepared statement takes exactly the arguments that it names."""
    if "$3" in step:
        return arguments
    return arguments[:1] if "$1" in step else []
