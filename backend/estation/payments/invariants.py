"""What must always be true of orders, attempts, bills, books and queues; each query finds breaches.

Plain SQL over several contexts' tables on purpose: a proof reads the stored facts, not the
functions that wrote them. The same queries run in tests, in the simulator and every five minutes
in production; what they mean to people is in `invariant_meanings`.

A query has one column `breach` and may use three names: `:now`, and `:since` and `:since_id` for
what was made from a moment on (row ids are ordered by time). A query without them looks at
everything each time, so it must be held small by an index.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tortoise import Tortoise

_GIVEN_BACK = """ob.amount_fen <= (
            select coalesce(sum(s.amount_fen), 0) from pay_refund r join pay_refund_share s
                on s.refund_id = r.id and s.bill_id = ob.bill_id
            where r.order_id = ob.order_id and r.state = 'succeeded')"""
"""True of a bill in an order whose payees have given all of it back."""

FORGOTTEN = """not exists (
            select from incident i where i.channel_trade_no = t.channel_no and i.state = 'open')
        and not exists (
            select from ledger_transfer a where a.idempotency_key = 'applied:' || t.idempotency_key)
        and (select sum(e.debit_fen) from ledger_entry e where e.transfer_id = t.id)
            > (select coalesce(sum(r.amount_fen), 0) from pay_refund r where r.arrival_id = t.id
               and r.state in ('approved', 'processing', 'abnormal', 'succeeded'))
            + (select coalesce(sum(s.amount_fen), 0) from outside_settlement s
               where s.arrival_id = t.id and s.state = 'approved')"""
"""True of money `t` in suspense that nobody looks after: some of it is neither applied, nor given
back or on its way, nor settled outside, and no incident of it is open."""

INVARIANTS: dict[str, str] = {
    # books
    "every_transfer_is_balanced": """
        select t.id::text as breach from ledger_transfer t
        left join ledger_entry e on e.transfer_id = t.id and e.transfer_id >= :since_id
        where t.id >= :since_id
        group by t.id having count(e.id) < 2 or sum(e.debit_fen) <> sum(e.credit_fen)""",
    "debits_equal_credits_in_every_region": """
        select t.region as breach from ledger_transfer t
        join ledger_entry e on e.transfer_id = t.id and e.transfer_id >= :since_id
        where t.id >= :since_id
        group by t.region having sum(e.debit_fen) <> sum(e.credit_fen)""",
    "nobody_is_owed_less_than_nothing": """
        select account as breach from ledger_entry
        where starts_with(account, 'suspense:') or starts_with(account, 'refund_in_flight:')
           or starts_with(account, 'settled_outside:')
        group by account having sum(credit_fen) < sum(debit_fen)
        union all
        select account from ledger_entry
        where starts_with(account, 'payee_payable:') and account in (
            select account from ledger_entry where transfer_id >= :since_id and debit_fen > 0)
        group by account having sum(credit_fen) < sum(debit_fen)""",
    # money that arrived
    "every_paid_attempt_has_one_arrival": """
        select a.out_trade_no as breach from pay_attempt a
        where a.state = 'paid' and a.parts is null and a.id >= :since_id and 1 <> (
            select count(*) from ledger_transfer t
            join ledger_entry e on e.transfer_id = t.id and e.debit_fen > 0
            where t.idempotency_key = 'arrival:' || a.account_id || ':' || a.channel_trade_no
              and e.debit_fen = a.paid_fen)""",
    # At least: what a channel names beyond the parts, or twice, is in the books too. What another
    # attempt of the order brought is not of this one, nor is money that was only moved on.
    "every_paid_combined_attempt_has_its_arrivals": """
        select a.out_trade_no as breach from pay_attempt a
        where a.state = 'paid' and a.parts is not null and a.paid_fen > (
            select coalesce(sum(e.debit_fen), 0) from ledger_entry e
            where e.debit_fen > 0 and e.transfer_id in (
                select t.id from ledger_transfer t
                where t.order_id = a.order_id and t.kind in ('payment', 'suspense')
                  and not starts_with(t.idempotency_key, 'applied:')
                  and not exists (
                    select from pay_attempt other
                    where other.order_id = a.order_id and other.id <> a.id
                      and (other.out_trade_no = t.our_no or other.parts @> jsonb_build_array(
                        jsonb_build_object('out_trade_no', t.our_no))))
                union select t.id from jsonb_array_elements(a.parts) part
                join ledger_transfer t on t.our_no = part->>'out_trade_no'
                where t.kind in ('payment', 'suspense')
                  and not starts_with(t.idempotency_key, 'applied:')))""",
    "every_paid_order_has_one_payment": """
        select o.order_no as breach from pay_order o
        left join lateral (
            select count(distinct t.id) as arrivals, sum(e.debit_fen) as fen
            from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
            where t.order_id = o.id and t.kind = 'payment') p on true
        where o.state = 'paid' and o.id >= :since_id
          and (p.fen is distinct from o.amount_fen or p.arrivals <> 1
            and not exists (select from pay_attempt a where a.order_id = o.id
                and a.state = 'paid' and jsonb_array_length(a.parts) = p.arrivals))""",
    "every_part_pays_its_own_payee": """
        select part->>'out_trade_no' as breach from pay_attempt a
        cross join lateral jsonb_array_elements(a.parts) part
        join ledger_transfer t on t.our_no = part->>'out_trade_no' and t.kind = 'payment'
        where a.parts is not null and a.id >= :since_id and 2 <> (
            select count(*) from ledger_entry e where e.transfer_id = t.id and (
                e.account = 'channel_clearing:' || (part->>'account_id')
                    and e.debit_fen = (part->>'amount_fen')::bigint
                or e.account = 'payee_payable:' || (part->>'payee_code')
                    and e.credit_fen = (part->>'amount_fen')::bigint))""",
    "every_payment_belongs_to_a_paid_order": """
        select t.id::text as breach from ledger_transfer t where t.kind = 'payment'
        and t.id >= :since_id
        and not exists (select from pay_order o where o.id = t.order_id and o.state = 'paid')""",
    "every_suspense_has_an_incident": f"""
        select t.id::text as breach from ledger_transfer t where t.kind = 'suspense'
        and t.id >= :since_id and {FORGOTTEN}""",  # noqa: S608  (our own constants, as below)
    "money_of_another_amount_has_an_incident": """
        select a.out_trade_no as breach from pay_attempt a
        where a.state = 'paid' and a.paid_fen <> a.amount_fen and a.id >= :since_id
        and not exists (select from incident i where i.channel_trade_no = a.channel_trade_no)
        and not exists (select from jsonb_array_elements(a.parts) part
                        join incident i on i.out_trade_no = part->>'out_trade_no')
        and not exists (select from pay_refund r where r.out_trade_no = a.out_trade_no)
        and not exists (select from ledger_transfer s
                        where s.our_no = a.out_trade_no and s.kind = 'settled_outside')""",
    "every_applied_notice_has_its_payment": """
        select n.out_trade_no as breach from pay_notice n
        where n.outcome = 'applied' and n.kind not like 'REFUND.%'  -- a refund's news is no payment
          and n.id >= :since_id and not exists (
            select from pay_attempt a join ledger_transfer t
                on t.order_id = a.order_id and t.kind = 'payment'
            where a.out_trade_no = n.out_trade_no)""",
    # bills
    "the_bills_of_a_paid_order_are_paid": f"""
        select b.bill_no as breach from pay_order_bill ob
        join pay_order o on o.id = ob.order_id and o.state = 'paid'
        join bill b on b.id = ob.bill_id
        where o.id >= :since_id
          and (b.paid_at is null or b.paid_version is distinct from ob.bill_version)
          and not {_GIVEN_BACK}""",  # noqa: S608  (our own constants, as below)
    "a_paid_bill_has_its_paid_order": """
        select b.bill_no as breach from bill b
        where b.state in ('paid', 'refunded') and b.paid_at >= :since and not exists (
            select from pay_order_bill ob join pay_order o on o.id = ob.order_id
            where ob.bill_id = b.id and ob.bill_version = b.paid_version and o.state = 'paid')""",
    "a_bill_is_paid_by_one_order_at_most": f"""
        select twice.bill_id::text as breach from (
            select ob.bill_id from pay_order_bill ob
            join pay_order o on o.id = ob.order_id and o.state = 'paid'
            where ob.bill_id in (
                select recent.bill_id from pay_order_bill recent
                where recent.order_id >= :since_id)
            group by ob.bill_id having count(*) > 1) twice
        join pay_order_bill ob on ob.bill_id = twice.bill_id
        join pay_order o on o.id = ob.order_id and o.state = 'paid'
        where not {_GIVEN_BACK}
        group by twice.bill_id having count(*) > 1""",  # noqa: S608
    "a_bill_is_refunded_when_all_of_it_was_given_back": f"""
        select b.bill_no as breach from bill b join pay_order_bill ob
            on ob.bill_id = b.id and ob.bill_version = b.paid_version
        join pay_order o on o.id = ob.order_id and o.state = 'paid'
        where b.id in (select s.bill_id from pay_refund_share s union
                       select r.id from bill r where r.state = 'refunded' and r.paid_at >= :since)
          and (b.state = 'refunded' and b.version = b.paid_version) <> ({_GIVEN_BACK})""",  # noqa: S608
    "splits_add_up_to_the_order": """
        select o.order_no as breach from pay_order o where o.id >= :since_id and (o.amount_fen <> (
            select coalesce(sum(s.amount_fen), 0) from pay_order_split s where s.order_id = o.id)
        or o.amount_fen <> (
            select coalesce(sum(b.amount_fen), 0) from pay_order_bill b where b.order_id = o.id)
        )""",
    "every_paid_bill_has_its_receipt_message": """
        select o.order_no as breach from pay_order o
        join pay_order_bill ob on ob.order_id = o.id
        left join (
            select body->>'order_no' as order_no, body->>'bill_no' as bill_no, count(*) as n
            from outbox_message where topic = 'receipt' and id >= :since_id group by 1, 2
        ) m on m.order_no = o.order_no and m.bill_no = ob.bill_no
        where o.state = 'paid' and o.id >= :since_id and m.n is distinct from 1""",
    # refunds: few beside the payments, so that all of them are looked at each time
    # What was only asked gives nothing back: when the channel gives a closed refund back after all,
    # a second one that waits for its checker can be rejected and nothing else.
    "no_arrival_is_given_back_beyond_its_amount": """
        select given.arrival_id::text as breach from (
            select r.arrival_id, r.amount_fen from pay_refund r
            where r.state not in ('asked', 'rejected', 'closed')
            union all
            select s.arrival_id, s.amount_fen from outside_settlement s
            where s.state = 'approved'
            union all
            select t.id, e.debit_fen from ledger_transfer t join ledger_transfer a
                on a.idempotency_key = 'applied:' || t.idempotency_key
            join ledger_entry e on e.transfer_id = a.id and e.debit_fen > 0
            where t.id in (select r.arrival_id from pay_refund r
                           union select s.arrival_id from outside_settlement s)) given
        group by given.arrival_id having sum(given.amount_fen) > (
            select coalesce(sum(e.debit_fen), 0) from ledger_entry e
            where e.transfer_id = given.arrival_id) + (
            select coalesce(sum(c.amount_fen), 0) from claim_settlement c
            where c.arrival_id = given.arrival_id and c.state = 'approved')""",
    # What came back of a claim, or was given up, is of the order's money and no single payee's.
    "no_payee_gives_back_more_than_it_got": """
        select o.breach from (
            select n.breach, n.order_id, sum(n.over_fen) over (partition by n.order_id) as over_fen
            from (
                select r.order_id, s.bill_id::text || ' ' || s.payee_code as breach,
                    sum(s.amount_fen) - (
                        select coalesce(sum(p.amount_fen), 0) from pay_order_split p
                        where p.order_id = r.order_id and p.bill_id = s.bill_id
                          and p.payee_code = s.payee_code) as over_fen
                from pay_refund_share s
                join pay_refund r on r.id = s.refund_id
                    and r.state not in ('asked', 'rejected', 'closed')
                group by r.order_id, s.bill_id, s.payee_code) n
            where n.over_fen > 0) o
        where o.over_fen > (
            select coalesce(sum(c.amount_fen), 0) from claim_settlement c
            join ledger_transfer t on t.id = c.arrival_id and t.kind = 'payment'
            where t.order_id = o.order_id and c.state = 'approved')""",
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
        where t.kind in ('refund_start', 'refund_reversal', 'refund', 'paid_by_hand')
        and t.id >= :since_id
        and not exists (
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
        where t.kind = 'suspense' and t.id >= :since_id
        and not exists (select from pay_refund r where r.arrival_id = t.id)""",
    # Or until the refund that it tells of is done after all: a second one may have been asked for.
    "an_incident_that_waits_for_a_refund_is_open_until_it_is_done": """
        select i.dedupe_key as breach from incident i join pay_refund r
            on r.incident_key = i.dedupe_key and r.incident_key <> ''
        where i.resolved_by = 'system' and r.state <> 'succeeded'
        and not exists (
            select from pay_refund d where d.state = 'succeeded'
            and (d.incident_key = i.dedupe_key or d.refund_no = i.evidence ->> 'refund_no'))""",
    "what_is_settled_outside_stands_in_the_books": """
        select coalesce(s.id::text, b.key) as breach from (
            select * from outside_settlement where state = 'approved') s
        full join (
            select t.id, t.idempotency_key as key, c.account, d.debit_fen as fen
            from ledger_transfer t
            join ledger_entry d on d.transfer_id = t.id and d.debit_fen > 0
                and starts_with(d.account, 'suspense:')
            join ledger_entry c on c.transfer_id = t.id and c.credit_fen > 0
                and starts_with(c.account, 'settled_outside:')
            where t.kind = 'settled_outside') b
        on b.id = s.transfer_id and b.key = 'settled_outside:' || s.id::text
            and b.fen = s.amount_fen and b.account = 'settled_outside:' || s.account_id
        where s.id is null or b.id is null""",
    # Its debits are what the incidents told of, its credits what a closing refund took back and
    # what two persons booked; and while there is some of it, somebody looks after it.
    "a_claim_is_what_its_incidents_say": """
        select coalesce(b.claim, i.claim) as breach from (
            select substr(e.account, length('overpaid_back:') + 1) || ' ' || t.channel_no as claim,
                sum(e.debit_fen - e.credit_fen) as fen,
                sum(e.credit_fen) filter (where t.kind = 'refund_reversal') as taken_back_fen
            from ledger_entry e join ledger_transfer t on t.id = e.transfer_id
            where starts_with(e.account, 'overpaid_back:') group by 1) b
        full join (
            select n.claim, sum(n.fen) as fen, bool_or(n.is_open) as is_open from (
                select account_id || ' ' || channel_trade_no as claim, amount_fen as fen,
                    state = 'open' as is_open
                from incident where kind = 'refund_overpaid'
                union all
                select c.account_id || ' ' || t.channel_no, -c.amount_fen, false
                from claim_settlement c join ledger_transfer t on t.id = c.arrival_id
                where c.state = 'approved') n
            group by n.claim) i on i.claim = b.claim
        where coalesce(b.fen, 0) + coalesce(b.taken_back_fen, 0) <> coalesce(i.fen, 0)
           or b.fen > 0 and not i.is_open""",
    # Booked under the account and the day, where reconciliation marks the bill it booked them of.
    "the_channels_fees_are_those_of_their_proven_bills": """
        with touched as (
            select t.our_no from ledger_entry e join ledger_transfer t on t.id = e.transfer_id
            where e.transfer_id >= :since_id and starts_with(e.account, 'channel_fee:')
            union
            select account_id || ' ' || to_char(day, 'YYYY-MM-DD') from channel_bill_file
            where id >= :since_id and booked_fee_fen is not null)
        select coalesce(b.our_no, f.our_no) as breach from (
            select e.account, t.our_no, sum(e.debit_fen - e.credit_fen) as fen
            from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
                and starts_with(e.account, 'channel_fee:')
            where t.our_no in (select our_no from touched) group by e.account, t.our_no) b
        full join (
            select * from (
                select 'channel_fee:' || account_id as account,
                    account_id || ' ' || to_char(day, 'YYYY-MM-DD') as our_no,
                    booked_fee_fen as fen
                from channel_bill_file where booked_fee_fen is not null) booked
            where our_no in (select our_no from touched)) f
        on f.account = b.account and f.our_no = b.our_no
        where coalesce(b.fen, 0) <> coalesce(f.fen, 0)""",
    # Payee by payee; and a refund's fee is told at the first reservation of its money alone.
    # So the lines of an order are what was collected, less what was refunded, less told fees.
    "what_is_instructed_is_what_the_books_owe": """
        select coalesce(i.transfer_id, b.transfer_id)::text as breach from (
            select transfer_id, payee_code,
                case when is_refund then -amount_fen else amount_fen end as fen
            from split_instruction where transfer_id >= :since_id) i
        full join (
            select e.transfer_id, split_part(e.account, ':', 2) as payee_code,
                e.credit_fen - e.debit_fen as fen
            from ledger_entry e
            where e.transfer_id in (
                select transfer_id from split_instruction where transfer_id >= :since_id)
              and starts_with(e.account, 'payee_payable:')) b
        on b.transfer_id = i.transfer_id and b.payee_code = i.payee_code
        where i.fen is distinct from b.fen
        union all
        select told.transfer_id::text from (
            select transfer_id, payee_code, sum(fee_fen) as fen from (
                select transfer_id, payee_code, fee_fen from split_instruction
                where transfer_id >= :since_id
                union all
                select transfer_id, payee_code, fee_fen from split_fee_correction
                where transfer_id >= :since_id) lines
            group by transfer_id, payee_code having sum(fee_fen) <> 0) told
        left join ledger_transfer t on t.id = told.transfer_id
        where told.fen < 0 or t.id is null or t.kind = 'refund_reversal'
           or starts_with(t.idempotency_key, 'refund_start:')
              and split_part(t.idempotency_key, ':', 3) = 'again'""",
    "refunds_move_in_time": """
        select r.refund_no as breach from pay_refund r
        where r.next_try_at < :now - interval '5 minutes'""",
    # orders and attempts
    "only_open_orders_hold_bills": """
        select o.order_no as breach from pay_order_bill ob join pay_order o on o.id = ob.order_id
        where ob.is_open and o.state <> 'open'
        union all
        select o.order_no from pay_order o join pay_order_bill ob on ob.order_id = o.id
        where o.state = 'open' and o.id >= :since_id and not ob.is_open""",
    "an_order_has_one_live_attempt_at_most": """
        select live.out_trade_no as breach from (
            select a.out_trade_no, row_number() over (
                partition by a.order_id order by a.created_at desc, a.id desc) as place
            from pay_attempt a where a.state in ('opening', 'open')) live
        where live.place > 1""",
    "every_watched_attempt_will_be_asked_about": """
        select a.out_trade_no as breach from pay_attempt a
        where a.state in ('opening', 'open') and a.next_query_at is null
        union all
        select a.out_trade_no from pay_attempt a
        where a.state = 'abandoned' and a.next_query_at is null and a.id >= :since_id""",
    "attempts_are_asked_about_in_time": """
        select a.out_trade_no as breach from pay_attempt a
        where a.next_query_at < :now - interval '5 minutes'""",
    "no_attempt_is_silent_beyond_its_time": """
        select a.out_trade_no as breach from pay_attempt a join pay_order o on o.id = a.order_id
        where a.next_query_at is not null and o.expires_at < :now - interval '90 minutes'
        and not exists (select from incident i where i.kind = 'silent_attempt'
                        and i.out_trade_no = a.out_trade_no)""",
    "no_order_is_open_beyond_its_end": """
        select o.order_no as breach from pay_order o
        where o.id in (select b.order_id from pay_order_bill b where b.is_open)
        and o.state = 'open' and o.expires_at < :now - interval '15 minutes'
        and not exists (select from pay_attempt a where a.order_id = o.id
                        and a.state in ('opening', 'open') and a.next_query_at is not null)""",
    # what the books expect of open orders
    "every_open_order_is_expected_in_the_books": """
        select o.order_no as breach from pay_order o
        where o.id in (select b.order_id from pay_order_bill b where b.is_open)
        and o.state = 'open' and o.id >= :since_id and exists (
            select from (
                select s.payee_code, sum(s.amount_fen) as fen from pay_order_split s
                where s.order_id = o.id group by 1) s
            full join (
                select substr(e.account, length('hold_payee:') + 1) as payee_code,
                    sum(e.credit_fen) as fen
                from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
                    and starts_with(e.account, 'hold_payee:')
                where t.order_id = o.id and t.kind = 'hold'
                  and not exists (select from ledger_transfer r where r.reverses_id = t.id)
                group by 1) h on h.payee_code = s.payee_code
            where s.fen is distinct from h.fen)""",
    # What ended and waits a few seconds for its release is in neither sum.
    "the_books_expect_what_open_orders_bring": """
        select coalesce(h.region, o.region) as breach from (
            select t.region, sum(e.debit_fen) as fen from ledger_transfer t
            join ledger_entry e on e.transfer_id = t.id and e.transfer_id >= :since_id
                and starts_with(e.account, 'hold_expected:')
            where t.kind = 'hold' and t.id >= :since_id
              and not exists (select from ledger_transfer r where r.reverses_id = t.id)
              and not exists (select from pay_order d
                              where d.id = t.order_id and d.state <> 'open')
            group by t.region) h
        full join (
            select p.region, sum(p.amount_fen) as fen from pay_order p
            where p.id in (select b.order_id from pay_order_bill b where b.is_open)
              and p.state = 'open' and p.id >= :since_id
            group by p.region) o on o.region = h.region
        where h.fen is distinct from o.fen""",
    # A payment's own moment may be a day before its news: the books know when it came.
    "no_hold_outlives_its_order": """
        select t.our_no as breach from ledger_transfer t
        join pay_order o on o.id = t.order_id and o.state <> 'open'
        where t.kind = 'hold' and t.id >= :since_id
          and not exists (select from ledger_transfer r where r.reverses_id = t.id)
          and coalesce(o.closed_at, (
              select max(p.posted_at) from ledger_transfer p
              where p.order_id = o.id and p.kind = 'payment'), o.paid_at)
              < :now - interval '10 minutes'""",
    # the inbox and what leaves us
    "news_is_settled_in_time": """
        select n.id::text as breach from pay_notice n
        where n.handled_at is null and n.received_at < :now - interval '5 minutes'
        and n.next_try_at is not null""",
    # An open one, where the news is of money: words do not settle it.
    "every_news_given_up_has_an_incident": """
        select n.id::text as breach from pay_notice n
        where n.handled_at is null and n.next_try_at is null and not exists (
            select from incident i
            where i.dedupe_key = 'unsettled_news:' || n.account_id || ':' || n.id::text
              and (i.state = 'open'
                or n.refund is null and n.report->>'state' is distinct from 'paid'))""",
    "messages_leave_in_time": """
        select m.id::text as breach from outbox_message m
        where m.sent_at is null and m.dead_at is null
        and m.created_at < :now - interval '5 minutes'""",
    "no_message_is_dead": """
        select m.id::text as breach from outbox_message m
        where m.dead_at is not null and m.sent_at is null""",
    # incidents
    "every_open_incident_has_an_owner": """
        select i.id::text as breach from incident i
        where i.state = 'open' and i.owner not in ('finance', 'operator')""",
    "an_overdue_incident_is_escalated": """
        select i.id::text as breach from incident i
        where i.state = 'open' and i.due_at < :now - interval '10 minutes' and not exists (
            select from incident_action a where a.incident_id = i.id and a.action = 'escalate'
              and a.at >= i.due_at)""",
    "a_resolved_incident_says_by_whom_and_why": """
        select i.id::text as breach from incident i where i.state = 'resolved'
        and (i.resolved_at is null or i.resolved_by = '' or i.resolution = '')""",
    # the gate
    "the_copy_from_inside_is_fresh": """
        select s.stream as breach from gate_incoming_stream s
        where s.watermark < :now - interval '10 minutes'""",
    "no_incoming_stream_stands_still": """
        select s.stream as breach from gate_incoming_stream s
        where s.stopped_reason <> '' and s.stopped_at < :now - interval '5 minutes'""",
    "rows_leave_through_the_gate_in_time": """
        select distinct r.stream as breach from gate_outgoing_row r
        where r.packed_seq is null and r.created_at < :now - interval '5 minutes'""",
}

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

_NAME = re.compile(r"(?<!:):(now|since_id|since)\b")


@dataclass(frozen=True, slots=True)
class Breaches:
    """What breaks one rule: how many in all, and the first of them in a stable order."""

    total: int
    first: list[str]


async def broken_invariants(
    *, limit: int = 20, now: datetime | None = None, since: datetime = BEGINNING
) -> dict[str, list[str]]:
    """The invariants that do not hold, each with up to `limit` breaches; {} when all is well.

    Without `now` only those that hold at every moment: a duty that has a time needs the clock.
    """
    looked = [name for name in INVARIANTS if now is not None or not needs_clock(name)]
    # One statement for all: the simulator asks this after every step.
    sql, values = _numbered(
        " union all ".join(
            f"""(select '{name}' as name, breach from ({INVARIANTS[name]}) found
                 group by breach order by breach limit {int(limit)})"""  # noqa: S608
            for name in looked
        ),
        now=now or BEGINNING,
        since=since,
    )
    broken: dict[str, list[str]] = {}
    for row in await Tortoise.get_connection("default").execute_query_dict(sql, values):
        broken.setdefault(row["name"], []).append(row["breach"])
    return broken


async def breaches_of(
    name: str, *, now: datetime, since: datetime = BEGINNING, limit: int = 100
) -> Breaches:
    """Look at one rule, at what was made since a moment. Raises KeyError for an unknown name."""
    sql, values = bound(name, now=now, since=since)
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        f"""select breach, count(*) over () as total from ({sql}) found
            group by breach order by breach limit {int(limit)}""",  # noqa: S608  (our own queries)
        values,
    )
    return Breaches(rows[0]["total"] if rows else 0, [row["breach"] for row in rows])


def needs_clock(name: str) -> bool:
    """True for a duty that has a time, such as "handled within five minutes"."""
    return ":now" in INVARIANTS[name]


def bound(name: str, *, now: datetime, since: datetime) -> tuple[str, list[Any]]:
    """The query with numbered parameters, and their values."""
    return _numbered(INVARIANTS[name], now=now, since=since)


def _numbered(text: str, *, now: datetime, since: datetime) -> tuple[str, list[Any]]:
    known: Mapping[str, Any] = {"now": now, "since": since, "since_id": first_id_at(since)}
    casts = {"now": "timestamptz", "since": "timestamptz", "since_id": "uuid"}
    used: list[str] = []

    def number(found: re.Match[str]) -> str:
        word = found[1]
        if word not in used:
            used.append(word)
        return f"${used.index(word) + 1}::{casts[word]}"

    sql = _NAME.sub(number, text)
    return sql, [known[word] for word in used]


def first_id_at(moment: datetime) -> UUID:
    """The smallest row id that could be made at this moment (`shared.ids`: UUID version 7)."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
