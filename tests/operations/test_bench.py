"""The bench can start the online program, and its load test ends in a reconciliation that finds
what is missing, doubled or in conflict with what was sent."""

from pathlib import Path
from typing import Any

import pytest

from estation.bench import callback, orders
from estation.bench import settle as settle_bench
from estation.bench.notices import amount_fen, trade_number
from estation.outside.pay_channels import Channel, ChannelReport, ChannelState
from estation.payments.api import from_report, settle_batch
from estation.services import open_services
from estation.settings import Settings
from estation.shared.clock import system_clock
from estation.shared.migrating import asyncpg_dsn
from tests.payments.city import rows
from tests.payments.fakes import NOW

ACCOUNT = "wechat_pay:1900000109"
COUNT = 4
SENT = {trade_number(n): amount_fen(n) for n in range(COUNT)}
FIRST, SECOND = trade_number(0), trade_number(1)


async def test_the_bench_makes_every_key_the_online_program_opens(tmp_path: Path) -> None:
    callback.write_secrets(tmp_path, callback.wechat_account())
    settings = Settings(secrets_dir=tmp_path / "secrets", redis_url="redis://127.0.0.1:1")

    async with open_services(settings, system_clock) as services:
        accounts = set(services.channels)

    configured = (*settings.wechat_pay, *settings.wechat_combine, *settings.alipay)
    assert accounts == {one.account_id for one in configured}


def success(number: str, fen: int, trade_no: str = "") -> ChannelReport:
    return ChannelReport(
        channel=Channel.WECHAT_PAY,
        account_id=ACCOUNT,
        out_trade_no=number,
        state=ChannelState.PAID,
        channel_trade_no=trade_no or f"4200{number}",
        paid_fen=fen,
        paid_at=NOW,
    )


async def settle(*reports: ChannelReport) -> None:
    await settle_batch([from_report(report) for report in reports], now=NOW)


class TestReconciling:
    @pytest.fixture
    async def dsn(self, database: str) -> str:
        dsn = asyncpg_dsn(database)
        await orders.make_history(dsn, last=3, account_id=ACCOUNT)
        await orders.make_orders(dsn, count=COUNT + 1, account_id=ACCOUNT)
        await settle(*(success(number, fen) for number, fen in SENT.items()))
        return dsn

    async def test_what_was_sent_and_settled_once_ties(self, dsn: str) -> None:
        found = await orders.reconcile(dsn, SENT)

        assert found.is_whole
        assert found.counts() == {
            "sent": COUNT, "sent_fen": sum(SENT.values()), "missing": 0, "doubled": 0,
            "conflicting": 0, "unbalanced_fen": 0,
        }  # fmt: skip

    async def test_news_that_came_twice_and_was_booked_once_ties(self, dsn: str) -> None:
        await settle(success(FIRST, SENT[FIRST]))

        assert (await orders.reconcile(dsn, SENT)).is_whole

    async def test_one_that_is_not_on_the_books_is_missing(self, dsn: str) -> None:
        unheard, unknown = trade_number(COUNT), trade_number(COUNT + 7)
        sent = {**SENT, unheard: amount_fen(COUNT), unknown: 1}

        found = await orders.reconcile(dsn, sent)

        assert (found.missing, found.doubled, found.conflicting) == ([unheard, unknown], [], [])
        assert f"2 missing ({unheard}, {unknown})" in found.words()
        assert not found.is_whole

    async def test_one_that_is_on_the_books_twice_is_doubled(self, dsn: str) -> None:
        await settle(success(FIRST, SENT[FIRST], "4200AGAIN"))

        found = await orders.reconcile(dsn, SENT)

        assert (found.missing, found.doubled, found.conflicting) == ([], [FIRST], [])
        assert f"1 doubled ({FIRST})" in found.words()
        assert not found.is_whole

    async def test_one_missing_and_one_doubled_are_not_the_same_as_none(self, dsn: str) -> None:
        """As many transfers and fen as were sent: a count would be content."""
        unheard = trade_number(COUNT)
        await settle(success(FIRST, amount_fen(COUNT), "4200AGAIN"))

        found = await orders.reconcile(dsn, {**SENT, unheard: amount_fen(COUNT)})

        assert (found.missing, found.doubled, found.conflicting) == ([unheard], [FIRST], [])

    async def test_another_amount_than_was_sent_is_a_conflict(self, dsn: str) -> None:
        exchanged = {**SENT, FIRST: SENT[SECOND], SECOND: SENT[FIRST]}

        found = await orders.reconcile(dsn, exchanged)

        assert (found.missing, found.doubled, found.conflicting) == ([], [], [FIRST, SECOND])
        assert found.unbalanced_fen == 0
        assert not found.is_whole

    async def test_money_set_aside_is_a_conflict(self, dsn: str) -> None:
        number = trade_number(COUNT)
        await settle(success(number, amount_fen(COUNT) - 1))

        found = await orders.reconcile(dsn, {**SENT, number: amount_fen(COUNT) - 1})

        assert found.conflicting == [number]

    async def test_what_nobody_sent_is_a_conflict(self, dsn: str) -> None:
        sent = {number: fen for number, fen in SENT.items() if number != SECOND}

        found = await orders.reconcile(dsn, sent)

        assert (found.missing, found.doubled, found.conflicting) == ([], [], [SECOND])

    @pytest.mark.parametrize(
        "plant",
        [
            "update pay_attempt set paid_fen = paid_fen + 1 where out_trade_no = $1",
            "update pay_attempt set state = 'closed', paid_at = null, paid_fen = null,"
            " channel_trade_no = null where out_trade_no = $1",
            "update pay_order set state = 'closed', close_reason = 'expired', closed_at = now()"
            " where order_no = $1",
            "update bill set state = 'payable', paid_at = null, paid_version = null"
            " where bill_no = $1",
        ],
    )
    async def test_what_the_books_and_the_tables_say_apart_is_a_conflict(
        self, dsn: str, plant: str
    ) -> None:
        await rows(f"{plant} returning id", SECOND)

        found = await orders.reconcile(dsn, SENT)

        assert (found.missing, found.doubled, found.conflicting) == ([], [], [SECOND])

    async def test_of_many_the_first_are_named(self, dsn: str) -> None:
        nobody = {trade_number(n): 1 for n in range(100, 109)}

        words = (await orders.reconcile(dsn, {**SENT, **nobody})).words()

        assert f"9 missing ({', '.join(list(nobody)[:5])} …)" in words


WHOLE = orders.Reconciliation(COUNT, 4, [], [], [], 0)
ROUND: dict[str, Any] = {
    "per_second": 100.0, "p50_ms": 1.0, "p99_ms": 2.0,
    "processor_us": {"program": 1, "postgresql": 1, "load": 1},
}  # fmt: skip


WRONGS = pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"missing": [FIRST]}, f"1 missing ({FIRST})"),
        ({"doubled": [FIRST, SECOND]}, f"2 doubled ({FIRST}, {SECOND})"),
        ({"conflicting": [SECOND]}, f"1 conflicting ({SECOND})"),
        ({"unbalanced_fen": -1}, "-1 fen out of balance"),
        ({}, "0 missing, 0 doubled, 0 conflicting, 0 fen out of balance"),
    ],
)


@WRONGS
def test_a_load_test_that_does_not_tie_says_what_and_fails(
    wrong: dict[str, Any],
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The measuring itself is left out: minutes, and it is not what this is about."""
    names = [*(f"{kind} x{workers}" for kind, workers in callback.TURNS), "calm"]
    measured = {name: [ROUND] for name in names}, WHOLE._replace(**wrong)
    monkeypatch.setattr(callback, "_measure", lambda _: measured)
    monkeypatch.setenv("COLUMNS", "200")

    if wrong:
        with pytest.raises(SystemExit) as left:
            callback.run(as_json=True)
        assert left.value.code == 1
    else:
        callback.run(as_json=True)

    assert word in capsys.readouterr().out


@pytest.mark.timeout(300)
async def test_a_bench_of_settling_reconciles_what_it_settled(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BATCH", 4), ("BATCHES", 3), ("WARM_UP", 1), ("ROUNDS", 2)):
        monkeypatch.setattr(settle_bench, name, value)

    summary, proof = await settle_bench._measure(own_database_url, (10, 20))

    made = 2 * 2 * 4 * 4
    assert (summary["settled_once"], proof.sent) == (True, made)
    assert summary["reconciliation"] == proof.counts()
    assert proof.sent_fen == sum(amount_fen(n) for n in range(made))


@pytest.mark.timeout(300)
async def test_a_bench_of_settling_that_lost_a_payment_names_it(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BATCH", 4), ("BATCHES", 2), ("WARM_UP", 1), ("ROUNDS", 1)):
        monkeypatch.setattr(settle_bench, name, value)

    async def all_but_the_first(items: Any, *, now: Any) -> None:
        await settle_batch([one for one in items if one.report.out_trade_no != FIRST], now=now)

    monkeypatch.setattr(settle_bench, "settle_batch", all_but_the_first)

    summary, proof = await settle_bench._measure(own_database_url, (10,))

    assert not summary["settled_once"]
    assert (proof.missing, proof.doubled, proof.conflicting) == ([FIRST], [], [])


@WRONGS
def test_a_bench_of_settling_that_does_not_tie_says_what_and_fails(
    wrong: dict[str, Any],
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    proof = WHOLE._replace(**wrong)
    summary = {
        "by_orders_in_the_tables": {"10": 1.0}, "flat": {"10": 1.0}, "floor": 1.0, "ratio": 1.0,
        "p50_ms": 1.0, "p99_ms": 1.0, "settled_once": proof.is_whole,
    }  # fmt: skip

    async def measured(url: str, sizes: Any) -> Any:
        return summary, proof

    class NoDatabase:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def start(self) -> "NoDatabase":
            return self

        def create_database(self, name: str) -> None: ...
        def url(self, name: str) -> str:
            return name

        def stop(self, *, mode: str) -> None: ...

    monkeypatch.setattr(settle_bench, "_measure", measured)
    monkeypatch.setattr(settle_bench, "LocalPostgres", NoDatabase)
    monkeypatch.setattr(settle_bench.console, "_width", 200)

    if wrong:
        with pytest.raises(SystemExit) as left:
            settle_bench.run(as_json=True)
        assert left.value.code == 1
    else:
        settle_bench.run(as_json=True)

    assert word in capsys.readouterr().out


def test_every_number_a_load_sends_is_reconciled() -> None:
    sent = callback._sent()

    assert len(sent) == callback._count()
    last = callback._count() - 1
    assert sent[trade_number(last)] == amount_fen(last)
