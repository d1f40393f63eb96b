"""What a channel's bill proves of a payment is told to the centre whose bill was paid, once."""

import hashlib
import json
from dataclasses import replace
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import msgspec
import pytest

from estation import worker
from estation.outside.gate import rows as gate_rows
from estation.outside.pay_channels import Channel, Scene
from estation.outside.pay_channels.payers import seal_payers
from estation.payments import api
from estation.payments.actions import evidence
from estation.payments.signals import read_signals
from estation.reconciliation.api import reconcile_day
from estation.shared import outbox
from estation.shared.crypto import Vault
from tests.outside.gate_peers import Gate
from tests.payments import test_asked_refunds as asked_refunds
from tests.payments.city import MERCHANTS, TOTAL, City, later, rows
from tests.payments.fakes import NOW, CombiningChannel, FakeChannel
from tests.reconciliation import days
from tests.reconciliation.days import WECHAT, Day, Line

DAY = date(2026, 8, 3)  # of NOW in Beijing
TOMORROW = later(days=1)


@pytest.fixture
def city() -> City:
    return City()


async def paid(city: City, *, noticed: bool = True) -> Line:
    """An order is paid and settled; the line of the channel's bill for it."""
    _, _, number = await city.opened()
    city.wechat.pay(number)
    report = city.wechat.report(number)
    item = (
        api.from_notice(
            city.wechat.notice(report), channel=report.channel, account_id=report.account_id
        )
        if noticed
        else api.from_report(report)
    )
    await api.settle_batch([item], now=later(seconds=30))
    assert report.paid_at is not None
    return Line(number, TOTAL, report.paid_at, str(report.channel_trade_no))


async def reconcile(*lines: Line, account_id: str = WECHAT, more: Day | None = None) -> Day:
    day = more or Day()
    day.bill(account_id, DAY).extend(lines)
    accounts = sorted({account for account, _ in day.bills})
    await reconcile_day(DAY, services=days.services_for(day, *accounts), now=TOMORROW)
    return day


async def told() -> list[dict[str, Any]]:
    found = await rows(
        "select body::text as body from outbox_message where topic = 'payment_evidence'"
        " order by body ->> 'version', id"
    )
    return [json.loads(row["body"]) for row in found]


async def test_a_proven_payment_is_told_with_all_that_proves_it(database: str, city: City) -> None:
    line = await paid(city)
    early = await told()

    await reconcile(line)

    (said,) = await told()
    (file,) = await rows("select sha256 from channel_bill_file")
    (bill,) = await rows("select source, source_id, bill_no from bill")
    (order,) = await rows("select order_no from pay_order")
    (posted,) = await rows("select id::text as id from ledger_transfer where kind = 'payment'")
    notice = msgspec.json.encode({"out_trade_no": line.number, "total": TOTAL}, order="sorted")
    assert early == []
    assert (said["source"], said["source_id"], said["bill_no"]) == tuple(bill.values())
    assert (said["order_no"], said["out_trade_no"]) == (order["order_no"], line.number)
    assert (said["channel"], said["merchant_id"]) == ("wechat_pay", "1900000109")
    assert (said["channel_trade_no"], said["transfer_id"]) == (line.trade_no, posted["id"])
    assert (said["amount_fen"], said["bill_fen"], said["version"]) == (TOTAL, TOTAL, 1)
    assert (said["channel_day"], said["file_digest"]) == (str(DAY), file["sha256"])
    assert said["file_line"] == 2  # behind its head
    assert said["notice_id"].startswith(line.number)
    assert said["notice_digest"] == hashlib.sha256(notice).hexdigest()
    assert gate_rows.decode_row("payment_evidence", said)


async def test_the_same_day_again_tells_nothing_and_another_file_tells_a_new_version(
    database: str, city: City
) -> None:
    line = await paid(city)
    day = await reconcile(line)
    await reconcile(more=day)
    once = await told()

    other = replace(line, number="ANOTHER", trade_no="T9", fen=1)
    day.bills[WECHAT, DAY].insert(0, other)
    await reconcile(more=day)

    again = await told()
    assert len(once) == 1
    assert [(one["version"], one["file_line"]) for one in again] == [(1, 2), (2, 3)]
    assert again[0]["file_digest"] != again[1]["file_digest"]


async def test_a_payment_learnt_by_asking_has_no_notice(database: str, city: City) -> None:
    await reconcile(await paid(city, noticed=False))

    (said,) = await told()
    assert (said["notice_id"], said["notice_digest"], said["noticed_at"]) == ("", "", None)


@pytest.mark.parametrize(("vault", "is_readable"), [(days.VAULT, True), (Vault(b"x" * 32), False)])
async def test_a_notice_is_digested_in_the_words_the_channel_signed(
    database: str, city: City, vault: Vault, is_readable: bool
) -> None:
    """Whatever stands in the place of its payer here, and however often that is sealed anew."""
    line = await paid(city)
    said: dict[str, Any] = {"out_trade_no": line.number, "payer": {"openid": "oUpF8uMuAJO"}}
    clear = msgspec.json.encode(said, order="sorted")
    seal_payers(vault, said)
    await rows("update pay_notice set plaintext = $1::jsonb", msgspec.json.encode(said).decode())

    await reconcile(line)

    (sent,) = await told()
    assert sent["notice_digest"] == (hashlib.sha256(clear).hexdigest() if is_readable else "")
    assert sent["notice_id"].startswith(line.number)


async def test_news_of_its_refund_is_no_notice_of_a_payment_learnt_by_asking(
    database: str, city: City
) -> None:
    _, order, number = await asked_refunds.paid(city)
    await asked_refunds.approve(await asked_refunds.ask(order, 100))
    await asked_refunds.send(city, later(hours=2))
    (refund_no,) = city.wechat.refunds
    refund = city.wechat.finish(refund_no, at=later(hours=2))
    notice = city.wechat.refund_notice(refund)
    news = api.from_notice(notice, channel=refund.channel, account_id=refund.account_id)
    await api.settle_batch([news], now=later(hours=2))
    assert [row["outcome"] for row in await rows("select outcome from pay_notice")] == ["applied"]
    report = city.wechat.report(number)

    await reconcile(Line(number, TOTAL, report.paid_at or NOW, str(report.channel_trade_no)))

    (said,) = await told()
    assert (said["notice_id"], said["notice_digest"], said["noticed_at"]) == ("", "", None)


async def test_news_of_another_payment_of_its_order_is_no_notice_of_this_one(
    database: str, city: City
) -> None:
    """The second wallet's money, which goes back, is known already when its notice comes."""
    _, order, number = await city.opened()
    other = await city.attempt(order, Channel.ALIPAY, Scene.PRECREATE)
    city.alipay.pay(other.out_trade_no)
    report, twice = city.paid(number), city.alipay.report(other.out_trade_no)
    news = city.alipay.notice(twice)
    await api.settle_batch(
        [
            api.from_report(report),
            api.from_report(twice),
            api.from_notice(news, channel=twice.channel, account_id=twice.account_id),
        ],
        now=later(seconds=30),
    )
    assert await rows("select outcome from pay_notice") == [{"outcome": "repeated"}]

    await reconcile(Line(number, TOTAL, report.paid_at or NOW, str(report.channel_trade_no)))

    (said,) = await told()
    assert (said["out_trade_no"], said["notice_id"]) == (number, "")


async def test_evidence_becomes_due_bit_by_bit_and_is_not_late_before_its_turn(
    database: str, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy day's evidence must neither keep receipts waiting nor alarm anybody."""
    monkeypatch.setattr(evidence, "_AT_ONCE", 1)
    monkeypatch.setattr(outbox, "A_SECOND", 1)
    lines = [await paid(city) for _ in range(2)]

    await reconcile(*lines)

    due = await rows(
        "select not_before, created_at from outbox_message where topic = 'payment_evidence'"
        " order by not_before"
    )
    assert [(row["not_before"], row["created_at"]) for row in due] == [
        (TOMORROW + timedelta(seconds=n),) * 2 for n in range(2)
    ]
    await rows(
        "update outbox_message set sent_at = $1 where not_before < $2",
        TOMORROW,
        due[1]["not_before"],
    )
    ages = {one.signal.name: one.values for one in await read_signals(now=TOMORROW)}
    assert ages["estation_outbox_oldest_seconds"] == [((), 0)]


async def test_what_the_bill_does_not_prove_is_not_told(database: str, city: City) -> None:
    line = await paid(city)

    await reconcile(replace(line, fen=line.fen + 1), replace(line, number="STRANGER"))

    assert await told() == []
    assert await rows("select 1 from payment_evidence") == []


async def test_each_part_of_a_combined_payment_is_proved_by_its_own_account(
    database: str,
) -> None:
    merchants = [FakeChannel(account_id=account) for account in MERCHANTS.values()]
    combining = CombiningChannel()
    city = City(merchants=MERCHANTS, others=[combining, *merchants])
    _, _, number = await city.opened()
    combining.pay(number)
    report = combining.report(number)
    await api.settle_batch([api.from_report(report)], now=NOW)
    day = Day()
    for part in report.parts:
        assert part.paid_fen is not None
        day.bill(part.account_id, DAY).append(
            Line(part.out_trade_no, part.paid_fen, part.paid_at or NOW, str(part.channel_trade_no))
        )

    await reconcile(more=day)

    said = await told()
    assert len(said) == len(report.parts) > 1
    assert {one["merchant_id"] for one in said} == {
        part.account_id.partition(":")[2] for part in report.parts
    }
    assert all(one["bill_fen"] == one["amount_fen"] for one in said)
    assert sum(one["bill_fen"] for one in said) == TOTAL


async def test_it_leaves_in_the_stream_of_the_centre_and_is_proved_there(
    database: str, city: City, tmp_path: Any
) -> None:
    gate = Gate(tmp_path)
    gate.make_keys()
    await gate.keep_first(gate.now)
    await reconcile(await paid(city))
    (said,) = await told()
    services: Any = SimpleNamespace(
        settings=SimpleNamespace(gate=gate.settings, bureau_name="市中心", secret=gate.secret)
    )

    await worker.handlers(services)["payment_evidence"](
        {**said, "source": "jc-center"}, NOW + timedelta(days=1)
    )

    (log,) = await rows("select stream, key, version from gate_sent_row")
    key = f"{said['source_id']}:{said['order_no']}:{said['out_trade_no']}"
    assert tuple(log.values()) == ("online-jc-center", key, 1)


@pytest.mark.parametrize(
    "statement", ["update payment_evidence set version = 2", "delete from payment_evidence"]
)
async def test_what_was_told_is_never_changed(database: str, city: City, statement: str) -> None:
    await reconcile(await paid(city))

    with pytest.raises(asyncpg.RaiseError):
        await rows(statement)

    assert len(await rows("select 1 from payment_evidence")) == 1
