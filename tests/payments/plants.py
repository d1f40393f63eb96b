"""A lived-in city in which all is well, and for every invariant the fault that breaks it.

Faults are planted where no door of ours leads: by SQL, past triggers and foreign keys, as a
hand in the database or a bug in a release would.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from estation.ledger.api import (
    Leg,
    TransferInput,
    channel_fee,
    clearing,
    hold_input,
    payee_payable,
    post_many,
)
from estation.outside.gate.format import NO_PREVIOUS
from estation.outside.pay_channels import Channel, ChannelReport, RefundStatus
from estation.payments import api
from estation.payments.actions.inbox import keep_unhandled
from estation.payments.jobs import send_refunds
from estation.shared import ids, outbox
from estation.shared.transactions import in_transaction
from tests.payments.city import COMBINING, MERCHANTS, TOTAL, City, make_bill, rows
from tests.payments.fakes import CombiningChannel


@dataclass
class LivedIn:
    """One paid order, one open order with a code, one sum in suspense with its incident."""

    now: datetime
    city: City = field(default_factory=City)
    paid_order: UUID = field(default_factory=uuid4)
    paid_number: str = ""
    open_order: UUID = field(default_factory=uuid4)
    open_number: str = ""
    odd_number: str = ""  # paid with one fen too many
    given_back_order: UUID = field(default_factory=uuid4)  # wholly
    flying_refund: str = ""  # a part of the paid order on its way back
    automatic_refund: str = ""  # of money that came after the order was cancelled
    settled_outside: str = ""  # money of a wrong amount, dealt with outside by two persons


async def lived_in(now: datetime) -> LivedIn:
    world = LivedIn(now)
    world.paid_order, world.paid_number = await _opened(world)
    await _settled(world, world.paid_number)
    _, world.odd_number = await _opened(world)
    await _settled(world, world.odd_number, one_fen_more=True)
    await _with_refunds(world)
    await _with_money_settled_outside(world)
    world.open_order, world.open_number = await _opened(world)
    return world


async def _with_refunds(world: LivedIn) -> None:
    """One order wholly given back, a part of another on its way, and one that came too late."""
    city = world.city
    world.given_back_order, number = await _opened(world)
    await _settled(world, number)
    await _approved(world, world.given_back_order, TOTAL)
    city.wechat.now = world.now
    await send_refunds(city.services, now=world.now)
    (sent,) = city.wechat.refunds
    report = city.wechat.finish(sent, at=world.now)
    await api.settle_batch([api.from_refund(report)], now=world.now)
    world.flying_refund = await _approved(world, world.paid_order, 8_000)
    cancelled, number = await _opened(world)
    await api.cancel_order(
        person_id=city.person_id, order_id=cancelled, services=city.services, now=world.now
    )
    await _settled(world, number)
    late = await rows("select refund_no from pay_refund where cause = 'paid_late'")
    world.automatic_refund = late[0]["refund_no"]


async def _with_money_settled_outside(world: LivedIn) -> None:
    _, number = await _opened(world)
    await _settled(world, number, one_fen_more=True)
    (found,) = await rows("select id from incident where out_trade_no = $1", number)
    wish = await api.ask_to_settle_outside(
        incident_id=found["id"],
        believed_fen=TOTAL + 1,
        reason="基本户转账退还",
        document_no="回单 118",
        by="经办",
        now=world.now,
    )
    await api.approve_settling_outside(
        incident_id=found["id"], believed_fen=TOTAL + 1, by="复核", now=world.now
    )
    world.settled_outside = str(wish)


async def _approved(world: LivedIn, order_id: UUID, amount_fen: int) -> str:
    request_id = await api.ask_refund(
        order_id=order_id,
        amount_fen=amount_fen,
        believed_refundable_fen=TOTAL,
        reason="多缴退还",
        by="经办",
        now=world.now,
    )
    await api.approve_refund(request_id=request_id, by="复核", now=world.now)
    (refund,) = await api.refunds_of_request(request_id)
    return refund.refund_no


async def _opened(world: LivedIn) -> tuple[UUID, str]:
    bill = await make_bill(world.city.person_id, now=world.now)
    order = await world.city.order(bill, now=world.now)
    attempt = await world.city.attempt(order, now=world.now)
    return order.id, attempt.out_trade_no


async def _settled(world: LivedIn, number: str, *, one_fen_more: bool = False) -> None:
    channel = world.city.wechat
    asked = channel.trades[number].request.amount_fen
    channel.pay(number, amount_fen=asked + one_fen_more, at=world.now)
    notice = channel.notice(channel.report(number))
    item = api.from_notice(notice, channel=Channel.WECHAT_PAY, account_id=channel.account_id)
    await api.settle_batch([item], now=world.now)


async def by_hand(*statements: str) -> None:
    """SQL as an administrator would run it: no trigger and no foreign key in the way."""
    async with in_transaction() as db:
        await db.execute_script("set local session_replication_role = replica")
        for statement in statements:
            await db.execute_script(statement)
        await db.execute_script("set local session_replication_role = origin")


async def _one_fen_more_on_one_side(world: LivedIn) -> None:
    await by_hand(
        "update ledger_entry set debit_fen = debit_fen + 1"
        f" where debit_fen > 0 and transfer_id = (select id from ledger_transfer"
        f" where kind = 'payment' and our_no = '{world.paid_number}')"
    )


async def _more_paid_out_than_owed(world: LivedIn) -> None:
    account = world.city.wechat.account_id
    await _booked_by_hand(
        world,
        Leg(payee_payable("treasury"), debit_fen=99_000_000),
        Leg(clearing(account), credit_fen=99_000_000),
    )


async def _booked_by_hand(world: LivedIn, *legs: Leg) -> None:
    await post_many(
        [
            TransferInput(
                id=str(ids.row_id(world.now)),
                idempotency_key="by-hand",
                kind="payout",
                region="360101",
                order_id=None,
                our_no="by-hand",
                channel_no="",
                occurred_at=world.now,
                legs=legs,
            )
        ],
        now=world.now,
    )


async def _another_trade_number(world: LivedIn) -> None:
    await by_hand(
        "update pay_attempt set channel_trade_no = 'another'"
        f" where out_trade_no = '{world.paid_number}'"
    )


async def _paid_to_the_payees_themselves(world: LivedIn) -> str:
    """A combined payment, settled as it should be; its number."""
    combining = CombiningChannel(Channel.WECHAT_PAY, COMBINING)
    city = replace(world.city, merchants=dict(MERCHANTS), others=[combining])
    order = await city.order(await make_bill(city.person_id, now=world.now), now=world.now)
    number = (await city.attempt(order, now=world.now)).out_trade_no
    combining.pay(number, at=world.now)
    notice = combining.notice(combining.report(number))
    item = api.from_notice(notice, channel=Channel.WECHAT_PAY, account_id=COMBINING)
    await api.settle_batch([item], now=world.now)
    return number


async def _more_paid_than_the_parts_brought(world: LivedIn) -> None:
    number = await _paid_to_the_payees_themselves(world)
    await by_hand(f"update pay_attempt set paid_fen = paid_fen + 1 where out_trade_no = '{number}'")


async def _a_part_called_another_payees(world: LivedIn) -> None:
    number = await _paid_to_the_payees_themselves(world)
    await by_hand(
        "update pay_attempt set parts = jsonb_set(parts, '{0,payee_code}', '\"nobody\"')"
        f" where out_trade_no = '{number}'"
    )


async def _order_set_paid_by_hand(world: LivedIn) -> None:
    await by_hand(
        f"update pay_order set state = 'paid', paid_at = now() where id = '{world.open_order}'",
        f"update pay_order_bill set is_open = false where order_id = '{world.open_order}'",
    )


async def _paid_order_closed(world: LivedIn) -> None:
    await by_hand(
        "update pay_order set state = 'closed', closed_at = now(), close_reason = 'by hand'"
        f" where id = '{world.paid_order}'"
    )


async def _incidents_deleted(world: LivedIn) -> None:
    await by_hand("delete from incident")


async def _money_talked_away(world: LivedIn) -> None:
    await by_hand(
        "update incident set state = 'resolved', resolved_at = now(), resolved_by = '何敏',"
        f" resolution = '已与市民说明' where out_trade_no = '{world.odd_number}'"
    )


async def _more_settled_than_booked(world: LivedIn) -> None:
    await by_hand(
        "update outside_settlement set amount_fen = amount_fen + 1"
        f" where id = '{world.settled_outside}'"
    )


async def _claim_talked_away(world: LivedIn) -> None:
    """A refund of money that was settled outside meanwhile arrived after all; by hand somebody
    closed the incident that says so."""
    city, now = world.city, world.now
    (odd,) = await rows(
        "select id from incident where out_trade_no = $1 and kind = 'wrong_amount'",
        world.odd_number,
    )
    request_id = await api.ask_refund(
        incident_id=odd["id"], amount_fen=TOTAL + 1, believed_refundable_fen=TOTAL + 1,
        reason="原路退回", by="经办", now=now,
    )  # fmt: skip
    await api.approve_refund(request_id=request_id, by="复核", now=now)
    (refund,) = await api.refunds_of_request(request_id)
    await send_refunds(city.services, now=now)
    closed = city.wechat.finish(refund.refund_no, RefundStatus.CLOSED)
    await api.settle_batch([api.from_refund(closed)], now=now)
    wish = {"incident_id": odd["id"], "believed_fen": TOTAL + 1, "now": now}
    await api.ask_to_settle_outside(reason="转账", document_no="119", by="经办", **wish)
    await api.approve_settling_outside(by="复核", **wish)
    city.wechat.refunds[refund.refund_no].status = RefundStatus.PROCESSING
    done = city.wechat.finish(refund.refund_no, at=now)
    await api.settle_batch([api.from_refund(done)], now=now)
    await by_hand(
        "update incident set state = 'resolved', resolved_at = now(), resolved_by = '何敏',"
        " resolution = '已催收' where kind = 'refund_overpaid'"
    )


async def _fee_of_no_bill(world: LivedIn) -> None:
    account = world.city.wechat.account_id
    await _booked_by_hand(
        world, Leg(channel_fee(account), debit_fen=60), Leg(clearing(account), credit_fen=60)
    )


async def _line_of_a_file_lost(world: LivedIn) -> None:
    """One of the two payees of an instructed payment has no line."""
    export = ids.row_id(world.now)
    await by_hand(
        "insert into split_export (id, export_no, day, account_id, lines, total_fen, sha256,"
        " content, made_by, made_at)"
        f" values ('{export}', 'FZ1', current_date, '{world.city.wechat.account_id}', 2, 0, '',"
        " '', 'x', now())",
        "insert into split_instruction (id, export_id, transfer_id, payee_code, is_refund,"
        f" amount_fen, fee_fen) select gen_random_uuid(), '{export}', e.transfer_id,"
        " split_part(e.account, ':', 2), false, e.credit_fen, 0 from ledger_entry e"
        " join ledger_transfer t on t.id = e.transfer_id and t.kind = 'payment'"
        f" where t.our_no = '{world.paid_number}' and e.account = 'payee_payable:treasury'",
    )


async def _notice_called_applied(world: LivedIn) -> None:
    """The payer paid, and what was written of it is lost but for the notice."""
    world.city.wechat.pay(world.open_number, at=world.now)
    notice = world.city.wechat.notice(world.city.wechat.report(world.open_number))
    await by_hand(
        "insert into pay_notice (id, channel, account_id, event_key, kind, out_trade_no,"
        " plaintext, received_at, handled_at, outcome, tries, last_error)"
        f" values ('{ids.row_id(world.now)}', 'wechat_pay', 'x', '{notice.event_key}', 'payment',"
        f" '{world.open_number}', '{{}}', now(), now(), 'applied', 0, '')"
    )


async def _bill_unpaid_again(world: LivedIn) -> None:
    await by_hand(
        "update bill set state = 'payable', paid_at = null, paid_version = null where id ="
        f" (select bill_id from pay_order_bill where order_id = '{world.paid_order}')"
    )


async def _bill_set_paid_by_hand(world: LivedIn) -> None:
    await by_hand(
        f"update bill set state = 'paid', paid_at = '{world.now.isoformat()}', paid_version ="
        f" version where id ="
        f" (select bill_id from pay_order_bill where order_id = '{world.open_order}')"
    )


async def _bill_in_two_paid_orders(world: LivedIn) -> None:
    await by_hand(
        "update pay_order_bill set is_open = false, bill_id ="
        f" (select bill_id from pay_order_bill where order_id = '{world.paid_order}')"
        f" where order_id = '{world.open_order}'",
        f"update pay_order set state = 'paid', paid_at = now() where id = '{world.open_order}'",
    )


async def _one_fen_more_for_a_payee(world: LivedIn) -> None:
    await by_hand(
        "update pay_order_split set amount_fen = amount_fen + 1 where payee_code = 'treasury'"
        f" and order_id = '{world.paid_order}'"
    )


async def _receipt_message_lost(world: LivedIn) -> None:
    await by_hand("delete from outbox_message where topic = 'receipt'")


async def _refunded_bill_called_paid(world: LivedIn) -> None:
    await by_hand(
        "update bill set state = 'paid' where id ="
        f" (select bill_id from pay_order_bill where order_id = '{world.given_back_order}')"
    )


async def _one_more_refund(world: LivedIn) -> None:
    """Of all that was paid, beside the part that is on its way back already."""
    await by_hand(
        "create temp table more on commit drop as select * from pay_refund"
        f" where refund_no = '{world.flying_refund}'",
        f"update more set id = '{ids.row_id(world.now)}', refund_no = 'MORE', cause = 'centre',"
        " amount_fen = total_fen",
        "insert into pay_refund select * from more",
    )


async def _a_payee_gives_back_a_fortune(world: LivedIn) -> None:
    await by_hand(
        f"update pay_refund_share set amount_fen = 99000000 where {_OF_THE_FLYING_REFUND}"
    )


async def _one_fen_more_given_back(world: LivedIn) -> None:
    await by_hand(
        f"update pay_refund_share set amount_fen = amount_fen + 1 where {_OF_THE_FLYING_REFUND}"
    )


_OF_THE_FLYING_REFUND = (
    "refund_id = (select id from pay_refund where cause = 'staff' and state = 'approved')"
)


async def _refund_called_done(world: LivedIn) -> None:
    await by_hand(
        "update pay_refund set state = 'succeeded', ended_at = now(), next_try_at = null"
        f" where refund_no = '{world.flying_refund}'"
    )


async def _refund_lost(world: LivedIn) -> None:
    await by_hand(
        f"delete from pay_refund_share where {_OF_THE_FLYING_REFUND}",
        f"delete from pay_refund where refund_no = '{world.flying_refund}'",
    )


async def _automatic_refund_never_made(world: LivedIn) -> None:
    await by_hand(
        "delete from ledger_entry where transfer_id = (select id from ledger_transfer"
        f" where idempotency_key = 'refund_start:{world.automatic_refund}')",
        "delete from ledger_transfer"
        f" where idempotency_key = 'refund_start:{world.automatic_refund}'",
        f"delete from pay_refund where refund_no = '{world.automatic_refund}'",
    )


async def _resolved_too_early(world: LivedIn) -> None:
    await by_hand(
        "update incident set state = 'resolved', resolved_at = now(), resolved_by = 'system',"
        " resolution = 'refunded' where kind = 'paid_after_close'"
    )


async def _refunds_stand_still(world: LivedIn) -> None:
    late = world.now - timedelta(minutes=6)
    await by_hand(
        f"update pay_refund set next_try_at = '{late.isoformat()}'"
        f" where refund_no = '{world.flying_refund}'"
    )


async def _paid_order_holds_its_bill(world: LivedIn) -> None:
    await by_hand(f"update pay_order_bill set is_open = true where order_id = '{world.paid_order}'")


async def _two_live_codes(world: LivedIn) -> None:
    known = world.city.wechat.trades[world.open_number]
    world.city.wechat.trades["SECOND"] = replace(known)
    await by_hand(
        "drop index uq_pay_attempt_live",
        "insert into pay_attempt (id, order_id, channel, account_id, scene, out_trade_no,"
        " amount_fen, state, ticket, created_at, expires_at, next_query_at, queries, refusal,"
        " close_reason)"
        f" select '{ids.row_id(world.now)}', order_id, channel, account_id, scene, 'SECOND',"
        " amount_fen, state, ticket, created_at, expires_at, next_query_at, queries, refusal,"
        f" close_reason from pay_attempt where out_trade_no = '{world.open_number}'",
    )


async def _nobody_will_ask(world: LivedIn) -> None:
    await by_hand(
        f"update pay_attempt set next_query_at = null where out_trade_no = '{world.open_number}'"
    )


async def _questions_stand_still(world: LivedIn) -> None:
    late = world.now - timedelta(minutes=6)
    await by_hand(
        f"update pay_attempt set next_query_at = '{late.isoformat()}'"
        f" where out_trade_no = '{world.open_number}'"
    )


async def _silent_and_nobody_told(world: LivedIn) -> None:
    ended = world.now - timedelta(hours=2)
    soon = world.now + timedelta(minutes=1)
    await by_hand(
        f"update pay_order set expires_at = '{ended.isoformat()}' where id = '{world.open_order}'",
        f"update pay_attempt set next_query_at = '{soon.isoformat()}'"
        f" where out_trade_no = '{world.open_number}'",
    )


async def _order_forgotten(world: LivedIn) -> None:
    ended = world.now - timedelta(minutes=20)
    await by_hand(
        f"update pay_order set expires_at = '{ended.isoformat()}' where id = '{world.open_order}'",
        "update pay_attempt set state = 'closed', closed_at = now(), next_query_at = null"
        f" where out_trade_no = '{world.open_number}'",
    )


async def _hold_lost(world: LivedIn) -> None:
    of_the_hold = (
        f"(select id from ledger_transfer where kind = 'hold' and order_id = '{world.open_order}')"
    )
    await by_hand(
        f"delete from ledger_entry where transfer_id in {of_the_hold}",
        f"delete from ledger_transfer where id in {of_the_hold}",
    )


async def _hold_of_no_order(world: LivedIn) -> None:
    await post_many(
        [hold_input("by-hand", uuid4(), "360101", {"treasury": 5}, world.now)], now=world.now
    )


async def _hold_kept(world: LivedIn) -> None:
    """A cancelled order ended long ago, and nobody released what it was expected to bring."""
    ended = world.now - timedelta(minutes=11)
    await by_hand(
        f"update pay_order set closed_at = '{ended.isoformat()}'"
        " where state = 'closed' and close_reason = 'cancelled'"
    )


async def _news_left_lying(world: LivedIn) -> None:
    await _unsettled_news(world)


async def _news_given_up_silently(world: LivedIn) -> None:
    await _unsettled_news(world)
    await by_hand("update pay_notice set next_try_at = null, tries = 20 where handled_at is null")


async def _unsettled_news(world: LivedIn) -> None:
    """The payer of the open order paid, and settling the news failed six minutes ago."""
    channel = world.city.wechat
    channel.pay(world.open_number, at=world.now)
    report: ChannelReport = channel.report(world.open_number)
    item = api.from_notice(
        channel.notice(report), channel=Channel.WECHAT_PAY, account_id=channel.account_id
    )
    await keep_unhandled(
        item, error=RuntimeError("disk full"), now=world.now - timedelta(minutes=6)
    )


async def _message_left_lying(world: LivedIn) -> None:
    await outbox.put("bill_changed_after_payment", _NEWS, now=world.now - timedelta(minutes=6))


async def _message_dead(world: LivedIn) -> None:
    message_id = await outbox.put("bill_changed_after_payment", _NEWS, now=world.now)
    await by_hand(
        f"update outbox_message set dead_at = '{world.now.isoformat()}', tries = 20,"
        f" last_error = 'peer gone' where id = '{message_id}'"
    )


_NEWS = {"bill_id": "b", "version": 2, "total_fen": 1}


async def _owner_nobody_knows(world: LivedIn) -> None:
    await by_hand("update incident set owner = 'nobody'")


async def _overdue_and_quiet(world: LivedIn) -> None:
    due = world.now - timedelta(minutes=11)
    await by_hand(f"update incident set due_at = '{due.isoformat()}'")


async def _resolved_without_words(world: LivedIn) -> None:
    await by_hand("update incident set state = 'resolved'")


async def _copy_stands_still(world: LivedIn) -> None:
    await _incoming(world, "watermark", world.now - timedelta(minutes=11))


async def _stream_stopped(world: LivedIn) -> None:
    await _incoming(world, "stopped_at", world.now - timedelta(minutes=6), reason="fork")


async def _incoming(world: LivedIn, column: str, moment: datetime, *, reason: str = "") -> None:
    await by_hand(
        f"insert into gate_incoming_stream (stream, last_seq, last_digest, {column},"
        " stopped_reason, stopped_detail, failures, parked_files, duplicates, content_seq,"
        f" reported_seq) values ('jc-center-online', 0, '{NO_PREVIOUS}', '{moment.isoformat()}',"
        f" '{reason}', '', 0, 0, 0, 0, 0)"
    )


async def _rows_left_lying(world: LivedIn) -> None:
    late = world.now - timedelta(minutes=6)
    await by_hand(
        "insert into gate_outgoing_row (stream, topic, body, created_at)"
        f" values ('online-jc-center', 'receipt', '{{}}', '{late.isoformat()}')"
    )


Plant = Callable[[LivedIn], Awaitable[None]]

PLANTS: dict[str, Plant] = {
    "every_transfer_is_balanced": _one_fen_more_on_one_side,
    "debits_equal_credits_in_every_region": _one_fen_more_on_one_side,
    "nobody_is_owed_less_than_nothing": _more_paid_out_than_owed,
    "every_paid_attempt_has_one_arrival": _another_trade_number,
    "every_paid_combined_attempt_has_its_arrivals": _more_paid_than_the_parts_brought,
    "every_paid_order_has_one_payment": _order_set_paid_by_hand,
    "every_part_pays_its_own_payee": _a_part_called_another_payees,
    "every_payment_belongs_to_a_paid_order": _paid_order_closed,
    "every_suspense_has_an_incident": _money_talked_away,
    "money_of_another_amount_has_an_incident": _incidents_deleted,
    "every_applied_notice_has_its_payment": _notice_called_applied,
    "the_bills_of_a_paid_order_are_paid": _bill_unpaid_again,
    "a_paid_bill_has_its_paid_order": _bill_set_paid_by_hand,
    "a_bill_is_paid_by_one_order_at_most": _bill_in_two_paid_orders,
    "splits_add_up_to_the_order": _one_fen_more_for_a_payee,
    "every_paid_bill_has_its_receipt_message": _receipt_message_lost,
    "a_bill_is_refunded_when_all_of_it_was_given_back": _refunded_bill_called_paid,
    "no_arrival_is_given_back_beyond_its_amount": _one_more_refund,
    "no_payee_gives_back_more_than_it_got": _a_payee_gives_back_a_fortune,
    "shares_add_up_to_the_refund": _one_fen_more_given_back,
    "a_refund_stands_in_the_books_as_it_stands_here": _refund_called_done,
    "every_refund_in_the_books_is_one_of_ours": _refund_lost,
    "refunds_in_flight_are_those_unfinished": _refund_called_done,
    "every_automatic_refund_has_its_incident": _incidents_deleted,
    "what_the_platform_gives_back_by_itself_is_on_its_way": _automatic_refund_never_made,
    "an_incident_that_waits_for_a_refund_is_open_until_it_is_done": _resolved_too_early,
    "what_is_settled_outside_stands_in_the_books": _more_settled_than_booked,
    "a_claim_is_what_its_incidents_say": _claim_talked_away,
    "the_channels_fees_are_those_of_their_proven_bills": _fee_of_no_bill,
    "what_is_instructed_is_what_the_books_owe": _line_of_a_file_lost,
    "refunds_move_in_time": _refunds_stand_still,
    "only_open_orders_hold_bills": _paid_order_holds_its_bill,
    "an_order_has_one_live_attempt_at_most": _two_live_codes,
    "every_watched_attempt_will_be_asked_about": _nobody_will_ask,
    "attempts_are_asked_about_in_time": _questions_stand_still,
    "no_attempt_is_silent_beyond_its_time": _silent_and_nobody_told,
    "no_order_is_open_beyond_its_end": _order_forgotten,
    "every_open_order_is_expected_in_the_books": _hold_lost,
    "the_books_expect_what_open_orders_bring": _hold_of_no_order,
    "no_hold_outlives_its_order": _hold_kept,
    "news_is_settled_in_time": _news_left_lying,
    "every_news_given_up_has_an_incident": _news_given_up_silently,
    "messages_leave_in_time": _message_left_lying,
    "no_message_is_dead": _message_dead,
    "every_open_incident_has_an_owner": _owner_nobody_knows,
    "an_overdue_incident_is_escalated": _overdue_and_quiet,
    "a_resolved_incident_says_by_whom_and_why": _resolved_without_words,
    "the_copy_from_inside_is_fresh": _copy_stands_still,
    "no_incoming_stream_stands_still": _stream_stopped,
    "rows_leave_through_the_gate_in_time": _rows_left_lying,
}
"""Every rule of the registry, by name: a rule nobody can break is not known to work."""


async def incident_rows(kind: str) -> list[dict[str, object]]:
    return await rows(
        "select id, state, owner, evidence::text as evidence from incident"
        " where kind = $1 order by opened_at, id",
        kind,
    )
