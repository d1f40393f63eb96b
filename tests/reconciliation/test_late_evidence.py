"""Money that came late and was applied by two persons is proved to the centre like any other."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tortoise import Tortoise

from estation import worker
from estation.ledger.api import Leg, TransferInput, balance, payee_payable, post_many, suspense
from estation.outside.gate import rows as gate_rows
from estation.outside.pay_channels import Channel, ChannelRefused, Scene
from estation.payments import api, jobs
from estation.payments.errors import NothingToApply
from estation.payments.invariants import broken_invariants
from estation.reconciliation.actions.locking import wait_for_day
from estation.reconciliation.api import latest_run, reconcile_day, tell_of_late
from estation.settings import Settings
from estation.shared import ids
from estation.shared.transactions import in_transaction
from tests.payments.city import MERCHANTS, TOTAL, City, count, later, rows
from tests.payments.fakes import CombiningChannel, FakeChannel
from tests.reconciliation import days
from tests.reconciliation.days import WECHAT, Day, Line
from tests.reconciliation.test_evidence import DAY, TOMORROW, reconcile, told

AFTERWARDS = TOMORROW + timedelta(hours=3)


@pytest.fixture
def city() -> City:
    return City()


async def came_late(city: City, *, refund_fails: bool = True, noticed: bool = True) -> Line:
    """The order's time was over; the channel would not take the money back. Its bill's line."""
    _, _, number = await city.opened()
    await jobs.query_silent_attempts(city.services, now=later(minutes=15))
    await jobs.close_due_orders(city.services, now=later(minutes=15))
    city.wechat.pay(number, at=later(minutes=14))
    report = city.wechat.report(number)
    notice = city.wechat.notice(report)
    item = (
        api.from_notice(notice, channel=report.channel, account_id=report.account_id)
        if noticed
        else api.from_report(report)
    )
    await api.settle_batch([item], now=later(minutes=16))
    if refund_fails:
        city.wechat.trouble["refund"] = ChannelRefused("USER_ACCOUNT_ABNORMAL")
        await jobs.send_refunds(city.services, now=later(minutes=16))
        city.wechat.trouble.clear()
    return Line(number, TOTAL, later(minutes=14), str(report.channel_trade_no))


async def apply(line: Line, *, hours: float = 24 + 2, kind: str = "paid_after_expiry") -> str:
    """Two persons let it pay its bill; the payment's transfer."""
    incident = await incident_of(line, kind)
    await api.ask_to_apply(incident_id=incident, by="maker", note="市民要求", now=later(hours=1))
    return await api.approve_applying(incident_id=incident, by="checker", now=later(hours=hours))


async def incident_of(line: Line, kind: str = "paid_after_expiry") -> UUID:
    (found,) = await rows(
        "select id from incident where out_trade_no = $1 and kind = $2", line.number, kind
    )
    return UUID(str(found["id"]))


async def look(*, hours: float = 3) -> int:
    return await tell_of_late(vault=days.VAULT, now=TOMORROW + timedelta(hours=hours))


async def again(day: Day) -> None:
    await reconcile_day(DAY, services=days.services_for(day, WECHAT), now=AFTERWARDS)


async def differences() -> list[str]:
    return [one.kind for one in (await latest_run(DAY)).differences]


async def test_what_is_applied_after_its_day_was_reconciled_is_told_by_the_next_round(
    database: str, city: City
) -> None:
    line = await came_late(city)
    await reconcile(line)
    waiting = await told() + [await look()]

    transfer_id = await apply(line)
    rounds = [await look(hours=4), await look(hours=5)]

    (said,) = await told()
    (receipt,) = await rows("select body::text as body from outbox_message where topic = 'receipt'")
    (file,) = await rows("select sha256 from channel_bill_file")
    notice = msgspec.json.encode({"out_trade_no": line.number, "total": TOTAL}, order="sorted")
    assert (waiting, rounds) == ([0], [1, 0])
    assert (said["out_trade_no"], said["channel_trade_no"]) == (line.number, line.trade_no)
    assert (said["channel"], said["merchant_id"]) == ("wechat_pay", "1900000109")
    assert (said["amount_fen"], said["bill_fen"], said["version"]) == (TOTAL, TOTAL, 1)
    assert (said["channel_day"], said["file_digest"]) == (str(DAY), file["sha256"])
    assert said["file_line"] == 2  # behind its head
    assert said["notice_id"].startswith(line.number)
    assert said["notice_digest"] == hashlib.sha256(notice).hexdigest()
    sent = gate_rows.decode_row("payment_evidence", said)
    paid = gate_rows.decode_row("receipt", msgspec.json.decode(receipt["body"]))
    assert (sent.paid_at, sent.proved_at) == (line.at, TOMORROW)
    assert (sent.source, sent.source_id, sent.order_no) == (
        paid.source, paid.source_id, paid.order_no,
    )  # fmt: skip
    assert (sent.transfer_id, paid.transfer_id) == (transfer_id, transfer_id)
    assert sent.bill_fen == paid.amount_fen
    assert await broken_invariants() == {}


async def test_what_is_applied_before_its_day_is_reconciled_is_told_by_that_run(
    database: str, city: City
) -> None:
    line = await came_late(city)
    transfer_id = await apply(line, hours=2)
    early = await look()

    await reconcile(line)

    (said,) = await told()
    assert early == 0
    assert (said["transfer_id"], said["file_line"], said["version"]) == (transfer_id, 2, 1)
    assert await look() == 0
    assert await differences() == ["in_suspense"]  # where it was on its day, as before


async def test_the_same_file_tells_it_once_and_another_file_of_the_day_a_new_version(
    database: str, city: City
) -> None:
    line = await came_late(city)
    day = await reconcile(line)
    await apply(line)
    await look()
    await again(day)
    once = await told()

    day.bill(WECHAT, DAY).insert(0, replace(line, number="ANOTHER", trade_no="T9", fen=1))
    await again(day)

    assert len(once) == 1
    assert [(one["version"], one["file_line"]) for one in await told()] == [(1, 2), (2, 3)]
    assert await look() == 0


async def test_money_that_went_back_is_told_to_nobody(database: str, city: City) -> None:
    line = await came_late(city, refund_fails=False)
    await jobs.send_refunds(city.services, now=later(minutes=16))
    (refund_no,) = city.wechat.refunds
    refund = city.wechat.finish(refund_no, at=later(hours=2))
    await api.settle_batch([api.from_refund(refund)], now=later(hours=2))

    await reconcile(line)

    assert (await look(), await told()) == (0, [])
    assert await balance("suspense:wechat_pay:1900000109") == 0


async def test_money_that_still_waits_is_told_to_nobody(database: str, city: City) -> None:
    line = await came_late(city)
    await api.ask_to_apply(incident_id=await incident_of(line), by="maker", now=later(hours=1))

    await reconcile(line)

    assert (await look(), await told()) == (0, [])


@pytest.mark.parametrize("wrong", [{"fen": TOTAL + 1}, {"trade_no": "T-OTHER"}])
async def test_a_line_that_does_not_say_the_same_proves_nothing(
    database: str, city: City, wrong: dict[str, Any]
) -> None:
    line = await came_late(city)
    day = await reconcile(replace(line, **wrong))
    await apply(line)

    assert (await look(), await told()) == (0, [])

    day.bills[WECHAT, DAY] = [line]
    await again(day)
    assert len(await told()) == 1


async def test_the_notice_is_that_of_the_money_that_was_applied(database: str, city: City) -> None:
    """Its payer paid in both wallets, and of one the channel's notice never came."""
    _, order, number = await city.opened()
    other = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)
    await jobs.query_silent_attempts(city.services, now=later(minutes=15))
    await jobs.close_due_orders(city.services, now=later(minutes=15))
    city.wechat.pay(number, at=later(minutes=14))
    city.alipay.pay(other.out_trade_no, at=later(minutes=14))
    ours, theirs = city.wechat.report(number), city.alipay.report(other.out_trade_no)
    notice = city.alipay.notice(theirs)
    news = api.from_notice(notice, channel=theirs.channel, account_id=theirs.account_id)
    await api.settle_batch([news, api.from_report(ours)], now=later(minutes=16))
    city.wechat.trouble["refund"] = ChannelRefused("USER_ACCOUNT_ABNORMAL")
    await jobs.send_refunds(city.services, now=later(minutes=16))
    line = Line(number, TOTAL, later(minutes=14), str(ours.channel_trade_no))
    await apply(line)

    await reconcile(line)

    (said,) = await told()
    assert await count("pay_attempt", "state = 'paid'") == 2
    assert await count("pay_notice", "outcome = 'paid_after_expiry'") == 1
    assert (said["out_trade_no"], said["notice_id"]) == (number, "")


async def test_a_line_in_the_bill_of_the_next_day_proves_it_too(database: str, city: City) -> None:
    line = await came_late(city)
    after = DAY + timedelta(days=1)
    day = Day()
    day.bill(WECHAT, after).append(replace(line, at=later(hours=10)))
    services = days.services_for(day, WECHAT)
    await reconcile_day(after, services=services, now=later(days=2))

    await apply(line, hours=49)
    rounds = [await look(hours=27), await look(hours=28)]

    (said,) = await told()
    assert rounds == [1, 0]
    assert said["channel_day"] == str(after)


async def test_a_later_run_without_a_whole_bill_does_not_hide_what_an_earlier_one_found(
    database: str, city: City
) -> None:
    line = await came_late(city)
    day = await reconcile(line)
    day.raw[WECHAT, DAY] = days.as_file([line], count=9)
    await again(day)
    await apply(line)

    rounds = [await look(hours=4), await look(hours=5)]

    (said,) = await told()
    assert await differences() == ["leg_unproven"]
    assert rounds == [1, 0]
    assert said["proved_at"] == "2026-08-04T02:00:00Z"  # of the run that had it


async def test_a_round_leaves_a_day_alone_that_is_being_reconciled(
    database: str, city: City
) -> None:
    line = await came_late(city)
    await reconcile(line)
    await apply(line)
    held, enough = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with in_transaction() as db:
            await wait_for_day(db, DAY)
            held.set()
            await enough.wait()

    run = asyncio.create_task(hold())
    await held.wait()
    meanwhile = await look()
    enough.set()
    await run

    assert (meanwhile, await look(hours=4)) == (0, 1)


async def test_two_workers_tell_it_once(database: str, city: City) -> None:
    line = await came_late(city)
    await reconcile(line)
    await apply(line)

    both = await asyncio.gather(look(), look())

    assert sorted(both) == [0, 1]
    assert len(await told()) == await count("payment_evidence") == 1


async def test_the_worker_looks_for_it_each_minute(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "local")
    services: Any = SimpleNamespace(
        settings=Settings.read(), vault=days.VAULT, clock=lambda: AFTERWARDS
    )
    line = await came_late(city)
    await reconcile(line)
    await apply(line)

    (job,) = [one for one in worker.jobs(services) if one.name == "late_evidence"]
    await job.run(AFTERWARDS)

    assert job.every_seconds == 60
    assert len(await told()) == 1


async def test_old_incidents_are_left_to_the_next_run_of_their_day(
    database: str, city: City
) -> None:
    line = await came_late(city)
    day = await reconcile(line)
    await apply(line)

    rounds = await look(hours=24 * 367)
    await again(day)

    assert rounds == 0
    assert len(await told()) == 1


async def apply_parts(parts: Sequence[Any], order_id: UUID) -> None:
    """As the deed does for money that came at once: suspense pays the part's payee."""
    (attempt,) = await rows("select parts::text as parts from pay_attempt")
    payees = {
        one["out_trade_no"]: one["payee_code"] for one in msgspec.json.decode(attempt["parts"])
    }
    await post_many(
        [
            TransferInput(
                id=str(ids.row_id(AFTERWARDS)),
                idempotency_key=f"applied:arrival:{part.account_id}:{part.channel_trade_no}",
                kind="payment",
                region="360101",
                order_id=order_id,
                our_no=part.out_trade_no,
                channel_no=part.channel_trade_no,
                occurred_at=part.paid_at,
                legs=[
                    Leg(suspense(part.account_id), debit_fen=part.paid_fen),
                    Leg(payee_payable(payees[part.out_trade_no]), credit_fen=part.paid_fen),
                ],
            )
            for part in parts
        ],
        now=AFTERWARDS,
        db=Tortoise.get_connection("default"),
    )


async def test_each_part_of_a_combined_payment_is_proved_by_its_own_account(database: str) -> None:
    """No deed applies parts today; where the books say that they pay their payees, it is told."""
    merchants = [FakeChannel(account_id=account) for account in MERCHANTS.values()]
    combining = CombiningChannel()
    city = City(merchants=MERCHANTS, others=[combining, *merchants])
    _, order, number = await city.opened()
    combining.pay(number)
    report = combining.report(number)
    await rows(
        "update pay_order set state = 'closed', closed_at = now(), close_reason = 'cancelled'"
    )
    notice = combining.notice(report)
    await api.settle_batch(
        [api.from_notice(notice, channel=report.channel, account_id=report.account_id)],
        now=later(),
    )
    day = Day()
    for part in report.parts:
        assert part.paid_fen is not None
        assert part.paid_at is not None
        day.bill(part.account_id, DAY).append(
            Line(part.out_trade_no, part.paid_fen, part.paid_at, str(part.channel_trade_no))
        )
    await reconcile(more=day)
    waiting = await told()
    part = report.parts[0]
    with pytest.raises(NothingToApply) as refusal:
        await apply(Line(part.out_trade_no, 0, later(), ""), kind="paid_after_close")

    await apply_parts(report.parts, order.id)
    await reconcile(more=day)
    await reconcile(more=day)

    said = await told()
    assert waiting == []
    assert refusal.value.details == {"why": "no_order"}
    assert len(said) == len(report.parts) > 1
    assert {one["merchant_id"] for one in said} == {
        part.account_id.partition(":")[2] for part in report.parts
    }
    assert all(one["bill_fen"] == one["amount_fen"] for one in said)
    assert sum(one["bill_fen"] for one in said) == TOTAL
    assert {one["notice_id"] for one in said} == {notice.event_key}
