"""What must always be true of orders, attempts, bills and books; each query finds breaches.

Plain SQL over several contexts' tables on purpose: a proof reads the stored facts, not the
functions that wrote them.
"""

from typing import Any

from tortoise import Tortoise

_GIVEN_BACK = """ob.amount_fen = (
            select coalesce(sum(s.amount_fen), 0) from pay_refund r join pay_refund_share s
                on s.refund_id = r.id and s.bill_id = ob.bill_id
            where r.order_id = ob.order_id and r.state = 'succeeded')"""
"""True of a bill in an order whose payees have given all of it back."""

INVARIANTS: dict[str, str] = {
    "every_transfer_is_balanced": """
        select t.id::text as breach from ledger_transfer t
        left join ledger_entry e on e.transfer_id = t.id
        group by t.id having count(e.id) < 2 or sum(e.debit_fen) <> sum(e.credit_fen)""",
    "every_paid_attempt_has_one_arrival": """
        select a.out_trade_no as breach from pay_attempt a
        where a.state = 'paid' and a.parts is null and 1 <> (
            select count(*) from ledger_transfer t
            join ledger_entry e on e.transfer_id = t.id and e.debit_fen > 0
            where t.idempotency_key = 'arrival:' || a.account_id || ':' || a.channel_trade_no
              and e.debit_fen = a.paid_fen)""",
    # At least: what a channel names beyond the parts, or twice, is in the books too.
    "every_paid_combined_attempt_has_its_arrivals": """
        select a.out_trade_no as breach from pay_attempt a
        where a.state = 'paid' and a.parts is not null and a.paid_fen > (
            select coalesce(sum(e.debit_fen), 0) from ledger_entry e
            where e.debit_fen > 0 and e.transfer_id in (
                select t.id from ledger_transfer t
                where t.order_id = a.order_id and t.kind in ('payment', 'suspense')
                union select t.id from jsonb_array_elements(a.parts) part
                join ledger_transfer t on t.our_no = part->>'out_trade_no'
                where t.kind in ('payment', 'suspense')))""",
    "every_paid_order_has_one_payment": """
        select o.order_no as breach from pay_order o
        left join lateral (
            select count(distinct t.id) as arrivals, sum(e.debit_fen) as fen
            from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
            where t.order_id = o.id and t.kind = 'payment') p on true
        where o.state = 'paid' and (p.fen is distinct from o.amount_fen or p.arrivals <> 1
            and not exists (select from pay_attempt a where a.order_id = o.id
                and a.state = 'paid' and jsonb_array_length(a.parts) = p.arrivals))""",
    "every_part_pays_its_own_payee": """
        select part->>'out_trade_no' as breach from pay_attempt a
        cross join lateral jsonb_array_elements(a.parts) part
        join ledger_transfer t on t.our_no = part->>'out_trade_no' and t.kind = 'payment'
        where a.parts is not null and 2 <> (
            select count(*) from ledger_entry e where e.transfer_id = t.id and (
                e.account = 'channel_clearing:' || (part->>'account_id')
                    and e.debit_fen = (part->>'amount_fen')::bigint
                or e.account = 'payee_payable:' || (part->>'payee_code')
                    and e.credit_fen = (part->>'amount_fen')::bigint))""",
    "every_payment_belongs_to_a_paid_order": """
        select t.id::text as breach from ledger_transfer t where t.kind = 'payment'
        and not exists (select from pay_order o where o.id = t.order_id and o.state = 'paid')""",
    "every_suspense_has_an_incident": """
        select t.id::text as breach from ledger_transfer t where t.kind = 'suspense'
        and not exists (select from incident i where i.channel_trade_no = t.channel_no)""",
    "the_bills_of_a_paid_order_are_paid": f"""
        select b.bill_no as breach from pay_order_bill ob
        join pay_order o on o.id = ob.order_id and o.state = 'paid'
        join bill b on b.id = ob.bill_id
        where (b.paid_at is null or b.paid_version is distinct from ob.bill_version)
          and not {_GIVEN_BACK}""",  # noqa: S608  (our own constants, as below)
    "a_paid_bill_has_its_paid_order": """
        select b.bill_no as breach from bill b
        where b.state in ('paid', 'refunded') and not exists (
            select from pay_order_bill ob join pay_order o on o.id = ob.order_id
            where ob.bill_id = b.id and ob.bill_version = b.paid_version and o.state = 'paid')""",
    "a_bill_is_paid_by_one_order_at_most": f"""
        select ob.bill_id::text as breach from pay_order_bill ob
        join pay_order o on o.id = ob.order_id and o.state = 'paid'
        where not {_GIVEN_BACK}
        group by ob.bill_id having count(*) > 1""",  # noqa: S608
    "a_bill_is_refunded_when_all_of_it_was_given_back": f"""
        select b.bill_no as breach from bill b join pay_order_bill ob
            on ob.bill_id = b.id and ob.bill_version = b.paid_version
        join pay_order o on o.id = ob.order_id and o.state = 'paid'
        where (b.state = 'refunded') <> ({_GIVEN_BACK})""",  # noqa: S608
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
    "no_arrival_is_given_back_beyond_its_amount": """
        select r.arrival_id::text as breach from pay_refund r
        where r.state not in ('rejected', 'closed')
        group by r.arrival_id having sum(r.amount_fen) > (
            select coalesce(sum(e.debit_fen), 0) from ledger_entry e
            where e.transfer_id = r.arrival_id)""",
    "no_payee_gives_back_more_than_it_got": """
        select s.bill_id::text || ' ' || s.payee_code as breach from pay_refund_share s
        join pay_refund r on r.id = s.refund_id and r.state not in ('rejected', 'closed')
        group by r.order_id, s.bill_id, s.payee_code having sum(s.amount_fen) > (
            select coalesce(sum(p.amount_fen), 0) from pay_order_split p
            where p.order_id = r.order_id and p.bill_id = s.bill_id
              and p.payee_code = s.payee_code)""",
    "shares_add_up_to_the_refund": """
        select r.refund_no as breach from pay_refund r
        where case r.taken_from when 'payment' then r.amount_fen else 0 end <> (
            select coalesce(sum(s.amount_fen), 0) from pay_refund_share s
            where s.refund_id = r.id)""",
    "a_refund_stands_in_the_books_as_it_stands_here": """
        select n.refund_no as breach from (
            select r.refund_no, r.state,
                count(*) filter (where t.kind = 'refund_start') as starts,
                count(*) filter (where t.kind = 'refund_reversal') as reversals,
                count(*) filter (where t.kind = 'refund') as ends
            from pay_refund r left join ledger_transfer t on t.idempotency_key in (
                'refund_start:' || r.refund_no, 'refund_start:' || r.refund_no || ':again',
                'refund_reversal:' || r.refund_no, 'refund:' || r.refund_no)
            group by r.id) n
        where case when n.state in ('asked', 'rejected')
                then n.starts > 0 or n.reversals > 0 or n.ends > 0
            when n.state in ('approved', 'processing', 'abnormal')
                then n.starts <> 1 or n.reversals > 0 or n.ends > 0
            when n.state = 'succeeded' then n.starts <> n.reversals + 1 or n.ends <> 1
            else n.starts <> 1 or n.reversals <> 1 or n.ends > 0 end""",
    "every_refund_in_the_books_is_one_of_ours": """
        select t.id::text as breach from ledger_transfer t
        where t.kind in ('refund_start', 'refund_reversal', 'refund') and not exists (
            select from pay_refund r
            where r.refund_no = split_part(t.idempotency_key, ':', 2))""",
    "refunds_in_flight_are_those_unfinished": """
        select coalesce(b.account_id, f.account_id) as breach from (
            select substr(account, length('refund_in_flight:') + 1) as account_id,
                sum(credit_fen) - sum(debit_fen) as fen
            from ledger_entry where starts_with(account, 'refund_in_flight:') group by 1) b
        full join (
            select account_id, sum(amount_fen) as fen from pay_refund
            where state in ('approved', 'processing', 'abnormal') group by 1) f
        on f.account_id = b.account_id where coalesce(b.fen, 0) <> coalesce(f.fen, 0)""",
    "every_automatic_refund_has_its_incident": """
        select r.refund_no as breach from pay_refund r
        where r.cause in ('double_payment', 'paid_late', 'bill_changed')
        and not exists (select from incident i where i.dedupe_key = r.incident_key)""",
    "what_the_platform_gives_back_by_itself_is_on_its_way": """
        select t.id::text as breach from ledger_transfer t join incident i
            on i.channel_trade_no = t.channel_no and i.out_trade_no = t.our_no
            and i.kind in ('double_payment', 'bill_already_paid', 'paid_after_close',
                           'paid_after_expiry', 'bill_revised', 'bill_withdrawn')
        where t.kind = 'suspense'
        and not exists (select from pay_refund r where r.arrival_id = t.id)""",
    "an_incident_that_waits_for_a_refund_is_open_until_it_is_done": """
        select i.dedupe_key as breach from incident i join pay_refund r
            on r.incident_key = i.dedupe_key and r.incident_key <> ''
        where i.resolved_by = 'system' and r.state <> 'succeeded'
        and not exists (select from pay_refund d
                        where d.incident_key = i.dedupe_key and d.state = 'succeeded')""",
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
