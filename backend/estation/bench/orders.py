"""Open orders with bills, shares and live attempts, made set by set."""

from typing import Any

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

_HISTORY = """
with posted as (
    insert into ledger_transfer (id, idempotency_key, input_hash, kind, region, order_id, our_no,
                                 channel_no, occurred_at, posted_at)
    select uuidv7(), 'arrival:' || $1 || ':past' || n, md5(n::text), 'payment', '360101',
           uuidv7(), 'PAST' || n, 'past' || n, now() - interval '1 day', now()
    from generate_series(1, $2::int) as n
    returning id
), told as (
    insert into pay_notice (id, channel, account_id, event_key, kind, out_trade_no, plaintext,
                            received_at, handled_at, outcome, tries, last_error)
    select uuidv7(), 'wechat_pay', $1, 'past' || n, 'TRANSACTION.SUCCESS', 'PAST' || n,
           '{"trade_state": "SUCCESS"}', now(), now(), 'applied', 0, ''
    from generate_series(1, $2::int) as n
), sent as (
    insert into outbox_message (id, topic, body, created_at, not_before, sent_at, tries,
                                last_error)
    select uuidv7(), 'receipt', '{}', now(), now(), now(), 1, ''
    from generate_series(1, $2::int)
)
insert into ledger_entry (id, transfer_id, account, debit_fen, credit_fen)
select uuidv7(), id, account, debit, credit
from posted, (values ('channel_clearing:' || $1, 8000, 0), ('payee_payable:non_tax', 0, 8000))
    as leg(account, debit, credit)"""
# A city that has been running: empty tables would lead the planner astray for the whole run.


PAST = 20_000
"""Payments settled before the run."""


async def make_orders(dsn: str, *, count: int, account_id: str) -> None:
    """`count` orders of two payees whose live attempts the notices will pay."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        for step in _STEPS:
            await connection.execute(step, *_arguments(step, count, account_id))
        await connection.execute(_HISTORY, account_id, PAST)
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


async def settled(dsn: str) -> tuple[int, int, int]:
    """Orders paid, transfers posted in this run, and fen out of balance: (n, n, 0) when well."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            """select (select count(*) from pay_order where state = 'paid'),
                      (select count(*) from ledger_transfer where our_no like 'BENCH%'),
                      (select coalesce(sum(debit_fen) - sum(credit_fen), 0) from ledger_entry)"""
        )
        return int(row[0]), int(row[1]), int(row[2])
    finally:
        await connection.close()


def _arguments(step: str, count: int, account_id: str) -> list[object]:
    if "$2" in step:
        numbers = range(count)
        return [[trade_number(n) for n in numbers], [amount_fen(n) for n in numbers]]
    return [account_id] if "$1" in step else []
