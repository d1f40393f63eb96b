"""What must always be true of orders, attempts, bills and books; each query finds breaches.

Plain SQL over several contexts' tables on purpose: a proof reads the stored facts, not the
functions that wrote them.
"""

from typing import Any

from tortoise import Tortoise

INVARIANTS: dict[str, str] = {
    "every_transfer_is_balanced": """
        select t.id::text as breach from ledger_transfer t
        left join ledger_entry e on e.transfer_id = t.id
        group by t.id having count(e.id) < 2 or sum(e.debit_fen) <> sum(e.credit_fen)""",
    "every_paid_attempt_has_one_arrival": """
        select a.out_trade_no as breach from pay_attempt a where a.state = 'paid' and 1 <> (
            select count(*) from ledger_transfer t
            join ledger_entry e on e.transfer_id = t.id and e.debit_fen > 0
            where t.idempotency_key = 'arrival:' || a.account_id || ':' || a.channel_trade_no
              and e.debit_fen = a.paid_fen)""",
    "every_paid_order_has_one_payment": """
        select o.order_no as breach from pay_order o where o.state = 'paid' and 1 <> (
            select count(*) from ledger_transfer t
            join ledger_entry e on e.transfer_id = t.id and e.debit_fen > 0
            where t.order_id = o.id and t.kind = 'payment' and e.debit_fen = o.amount_fen)""",
    "every_payment_belongs_to_a_paid_order": """
        select t.id::text as breach from ledger_transfer t where t.kind = 'payment'
        and not exists (select from pay_order o where o.id = t.order_id and o.state = 'paid')""",
    "every_suspense_has_an_incident": """
        select t.id::text as breach from ledger_transfer t where t.kind = 'suspense'
        and not exists (select from incident i where i.channel_trade_no = t.channel_no)""",
    "the_bills_of_a_paid_order_are_paid": """
        select b.bill_no as breach from pay_order_bill ob
        join pay_order o on o.id = ob.order_id and o.state = 'paid'
        join bill b on b.id = ob.bill_id
        where b.paid_at is null or b.paid_version is distinct from ob.bill_version""",
    "a_paid_bill_has_its_paid_order": """
        select b.bill_no as breach from bill b where b.state = 'paid' and not exists (
            select from pay_order_bill ob join pay_order o on o.id = ob.order_id
            where ob.bill_id = b.id and ob.bill_version = b.paid_version and o.state = 'paid')""",
    "a_bill_is_paid_by_one_order_at_most": """
        select ob.bill_id::text as breach from pay_order_bill ob
        join pay_order o on o.id = ob.order_id and o.state = 'paid'
        group by ob.bill_id having count(*) > 1""",
    "only_open_orders_hold_bills": """
        select o.order_no as breach from pay_order o join pay_order_bill ob on ob.order_id = o.id
        where ob.is_open <> (o.state = 'open')""",
    "splits_add_up_to_the_order": """
        select o.order_no as breach from pay_order o where o.amount_fen <> (
            select coalesce(sum(s.amount_fen), 0) from pay_order_split s where s.order_id = o.id)
        or o.amount_fen <> (
            select coalesce(sum(b.amount_fen), 0) from pay_order_bill b where b.order_id = o.id)""",
    "every_paid_bill_has_its_receipt_message": """
        select o.order_no as breach from pay_order o join pay_order_bill ob on ob.order_id = o.id
        where o.state = 'paid' and 1 <> (
            select count(*) from outbox_message m where m.topic = 'receipt'
            and m.body->>'order_no' = o.order_no and m.body->>'bill_no' = ob.bill_no)""",
}


async def broken_invariants(*, limit: int = 20) -> dict[str, list[str]]:
    """The invariants that do not hold, each with up to `limit` breaches; {} when all is well."""
    found = {name: await _breaches(sql, limit) for name, sql in INVARIANTS.items()}
    return {name: breaches for name, breaches in found.items() if breaches}


async def _breaches(sql: str, limit: int) -> list[str]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        f"{sql} limit {int(limit)}",
    )
    return [row["breach"] for row in rows]
