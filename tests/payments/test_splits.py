"""Split instructions tie with the ledger to the fen, and no transfer is ever instructed twice."""

import asyncio
import csv
import hashlib
import io
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from estation.ledger.api import (
    Leg,
    TransferInput,
    clearing,
    payee_payable,
    post_many,
    refund_in_flight,
)
from estation.payments import api
from estation.payments.api import (
    fee_key,
    late_splits,
    make_split_export,
    split_file,
    split_standing,
)
from estation.payments.errors import NothingToInstruct, SplitDayNotOver, SplitExportNotFound
from estation.payments.invariants import broken_invariants
from estation.payments.models import SplitInstruction
from estation.payments.refund_rules import start_key
from estation.shared import ids
from tests.payments.city import MERCHANTS, TOTAL, City, count, later, make_settings, rows
from tests.payments.fakes import NOW, CombiningChannel, FakeChannel

ACCOUNT = "wechat_pay:1900000109"
RULE = "what_is_instructed_is_what_the_books_owe"
DAY = date(2026, 8, 3)  # of NOW in Beijing
TOMORROW = later(days=1)


@pytest.fixture
def city() -> City:
    return City()


async def pay(city: City, shares: dict[str, int] | None = None) -> str:
    """A payment applied at the collecting account; the channel's trade number."""
    _, _, number = await city.opened(shares)
    city.wechat.pay(number)
    report = city.wechat.report(number)
    await api.settle_batch([api.from_report(report)], now=later(seconds=30))
    return str(report.channel_trade_no)


async def make(fees: dict[str, int] | None = None, **changes: Any) -> api.SplitExportView:
    values = {"day": DAY, "account_id": ACCOUNT, "by": "何敏", "now": TOMORROW, **changes}
    return await make_split_export(fees=fees or {}, settings=make_settings(), **values)


async def lines_of(export: api.SplitExportView) -> list[list[str]]:
    text = (await split_file(export.export_no)).decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text)))


async def post(
    kind: str,
    debit: tuple[str, int],
    credit: tuple[str, int],
    *,
    at: Any = NOW,
    our_no: str = "R1",
    now: Any = NOW,
    key: str = "",
) -> None:
    transfer = TransferInput(
        id=str(ids.row_id(NOW)),
        idempotency_key=key or f"{kind}:{uuid4()}",
        kind=kind,
        region="360101",
        order_id=None,
        our_no=our_no,
        channel_no="5030",
        occurred_at=at,
        legs=[Leg(debit[0], debit_fen=debit[1]), Leg(credit[0], credit_fen=credit[1])],
    )
    await post_many([transfer], now=now)


async def pay_late(fen: int, *, payee: str = "treasury") -> None:
    """Of DAY by the channel's clock, applied two days later."""
    legs = (clearing(ACCOUNT), fen), (payee_payable(payee), fen)
    await post("payment", *legs, now=later(days=2))


async def test_each_payee_gets_a_line_and_the_file_ties_with_the_ledger(
    database: str, city: City
) -> None:
    await pay(city)
    await pay(city, {"treasury": 100})

    export = await make()

    assert (export.lines, export.total_fen, export.fee_fen) == (3, TOTAL + 100, 0)
    standing = await split_standing(DAY, ACCOUNT)
    assert (standing.ledger_fen, standing.open_fen) == (TOTAL + 100, 0)
    head, header, *body = await lines_of(export)
    assert head[1] == export.export_no
    assert header[0] == "序号"
    assert [row[0] for row in body] == ["1", "2", "3", "小计", "小计", "合计"]
    assert body[-1][2:7] == ["3 条", "", "8256.24", "0.00", "8256.24"]
    assert {row[1]: row[4] for row in body if row[0] == "小计"} == {
        "non_tax": "80.00",
        "treasury": "8176.24",
    }


async def test_the_stored_hash_is_of_the_very_bytes(database: str, city: City) -> None:
    await pay(city)

    export = await make()

    content = await split_file(export.export_no)
    assert hashlib.sha256(content).hexdigest() == export.sha256
    assert content.startswith(b"\xef\xbb\xbf")
    assert b"\r\n" in content


async def test_the_channels_fee_is_shared_by_largest_remainder(database: str, city: City) -> None:
    trade_no = await pay(city)

    export = await make({fee_key(trade_no, is_refund=False): 4953})

    fees = {row.payee_code: row.fee_fen for row in await SplitInstruction.all()}
    assert fees == {"treasury": 4905, "non_tax": 48}
    assert export.fee_fen == 4953
    total = (await lines_of(export))[-1]
    assert total[4:7] == ["8255.24", "49.53", "8205.71"]


async def test_no_transfer_is_instructed_twice(database: str, city: City) -> None:
    await pay(city)
    first = await make()

    with pytest.raises(NothingToInstruct):
        await make()
    await pay(city, {"non_tax": 7})
    second = await make()

    assert (first.lines, second.lines, second.total_fen) == (2, 1, 7)
    assert await count("split_instruction") == 3
    assert (await split_standing(DAY, ACCOUNT)).open_fen == 0


NEXT_DAY = DAY + timedelta(days=1)
DAY_AFTER = later(days=3)


async def test_what_is_applied_after_its_days_file_goes_late_with_the_next(
    database: str, city: City
) -> None:
    await pay(city)
    first = await make()
    assert await late_splits(ACCOUNT, now=DAY_AFTER) == []
    await pay_late(300)
    await pay_late(7, payee="non_tax")

    waiting = await late_splits(ACCOUNT, now=DAY_AFTER)
    export = await make(day=NEXT_DAY, now=DAY_AFTER)

    assert [(one.day, one.transfers, one.fen) for one in waiting] == [(DAY, 2, 307)]
    assert (first.late_lines, export.late_lines, export.lines, export.total_fen) == (0, 2, 2, 307)
    _, header, *body = await lines_of(export)
    notes = [row[header.index("备注")] for row in body]
    assert notes[:2] == ["迟到入账，清算日期 2026-08-03"] * 2
    assert not any(notes[2:])
    assert await late_splits(ACCOUNT, now=DAY_AFTER) == []
    mine, its = [await split_standing(day, ACCOUNT) for day in (DAY, NEXT_DAY)]
    assert (mine.ledger_fen, mine.open_fen) == (TOTAL + 307, 0)
    assert (its.ledger_fen, its.instructed_fen) == (0, 0)


async def test_a_second_file_of_a_day_holds_what_was_late_for_the_first(
    database: str, city: City
) -> None:
    await pay(city)
    await make()
    await pay_late(300)

    second = await make(now=DAY_AFTER)

    assert (second.lines, second.late_lines, second.total_fen) == (1, 1, 300)
    assert "迟到入账" in (await lines_of(second))[2][-1]


async def test_a_late_refund_takes_back_late(database: str, city: City) -> None:
    await pay(city)
    await make()
    in_flight = refund_in_flight(ACCOUNT)
    legs = (payee_payable("treasury"), 500), (in_flight, 500)
    await post("refund", *legs, now=later(days=2))

    export = await make(day=NEXT_DAY, now=DAY_AFTER)

    assert (export.refund_fen, export.late_lines) == (500, 1)
    assert (await split_standing(DAY, ACCOUNT)).open_fen == 0


async def test_a_day_without_its_file_waits_for_its_own(database: str, city: City) -> None:
    await pay(city)
    await post(
        "payment",
        (clearing(ACCOUNT), 9),
        (payee_payable("treasury"), 9),
        at=later(days=1),
        now=later(days=1),
    )

    export = await make(day=NEXT_DAY, now=DAY_AFTER)

    assert (export.total_fen, export.late_lines) == (9, 0)
    assert await late_splits(ACCOUNT, now=DAY_AFTER) == []
    assert (await split_standing(DAY, ACCOUNT)).open_fen == TOTAL


async def told_in_all() -> dict[str, int]:
    """Each payee's share of the fees as instructed, corrections included."""
    found = await rows(
        """select payee_code, sum(case when is_refund then -fee_fen else fee_fen end)::bigint as fen
           from (select payee_code, is_refund, fee_fen from split_instruction union all
                 select payee_code, is_refund, fee_fen from split_fee_correction) told
           group by payee_code"""
    )
    return {row["payee_code"]: row["fen"] for row in found}


async def test_a_fee_that_came_later_goes_as_a_correction_with_the_next_file(
    database: str, city: City
) -> None:
    key = fee_key(await pay(city), is_refund=False)
    first = await make()

    second = await make({key: 4953}, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER)

    assert (first.fee_fen, first.corrections) == (0, 0)
    assert (second.lines, second.corrections, second.late_lines) == (2, 2, 0)
    assert (second.total_fen, second.refund_fen, second.fee_fen) == (0, 0, 4953)
    assert await told_in_all() == {"treasury": 4905, "non_tax": 48}
    _, _, *body = await lines_of(second)
    assert {row[1]: row[3:7] for row in body[:2]} == {
        "treasury": ["手续费更正", "0.00", "49.05", "-49.05"],
        "non_tax": ["手续费更正", "0.00", "0.48", "-0.48"],
    }
    assert body[0][-1] == "手续费在下达后才确定，清算日期 2026-08-03"
    assert body[-1][4:7] == ["0.00", "49.53", "-49.53"]
    assert (await split_standing(DAY, ACCOUNT)).open_fen == 0
    with pytest.raises(NothingToInstruct):
        await make({key: 4953}, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER)


async def test_a_fee_that_was_corrected_ends_as_if_it_had_been_known(
    database: str, city: City
) -> None:
    key = fee_key(await pay(city), is_refund=False)
    await make({key: 4953})

    files = [
        await make({key: fen}, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER) for fen in (7, 60, 0)
    ]

    assert [one.fee_fen for one in files] == [7 - 4953, 53, -60]
    assert await told_in_all() == {"treasury": 0, "non_tax": 0}
    assert await count("split_instruction") == 2


async def test_a_fee_nobody_knows_any_more_is_left_as_it_was_told(
    database: str, city: City
) -> None:
    key = fee_key(await pay(city), is_refund=False)
    await make({key: 4953})

    with pytest.raises(NothingToInstruct):
        await make({}, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER)
    with pytest.raises(NothingToInstruct):
        await make({key: 1}, day=NEXT_DAY, now=DAY_AFTER)  # of a bill that is no news

    assert sum((await told_in_all()).values()) == 4953
    assert await count("split_fee_correction") == 0


async def test_a_refunds_fee_that_came_back_later_is_given_back_whatever_the_day(
    database: str, city: City
) -> None:
    """A channel may accept a refund days after it was decided: it is found by its number."""
    await pay(city)
    (order,) = await rows("select id from pay_order")
    number = await refunded(order["id"], 100)
    await make()

    week_later = DAY + timedelta(days=7)
    key = fee_key(number, is_refund=True)
    export = await make({key: 3}, fee_days=[week_later], day=week_later, now=later(days=9))

    assert (export.corrections, export.refund_fen, export.fee_fen) == (1, 0, -3)
    (line,) = [row for row in await lines_of(export) if row[3] == "退款手续费更正"]
    assert line[4:7] == ["0.00", "-0.03", "0.03"]
    assert await told_in_all() == {"treasury": 0, "non_tax": -3}


async def test_corrections_go_with_new_money_in_one_file_that_adds_up(
    database: str, city: City
) -> None:
    key = fee_key(await pay(city), is_refund=False)
    await make()
    await pay_late(300)

    export = await make({key: 4953}, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER)

    assert (export.lines, export.late_lines, export.corrections) == (3, 1, 2)
    assert (export.total_fen, export.fee_fen) == (300, 4953)
    *_, total = await lines_of(export)
    assert total[2:7] == ["3 条", "", "3.00", "49.53", "-46.53"]


async def test_makers_at_once_correct_a_fee_once(database: str, city: City) -> None:
    key = fee_key(await pay(city), is_refund=False)
    await make()

    answers = await asyncio.gather(
        *(make({key: 4953}, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER) for _ in range(5)),
        return_exceptions=True,
    )

    assert sum(isinstance(answer, NothingToInstruct) for answer in answers) == 4
    assert sum((await told_in_all()).values()) == 4953


async def test_a_correction_stays_as_it_was_written(database: str, city: City) -> None:
    key = fee_key(await pay(city), is_refund=False)
    await make()
    await make({key: 4953}, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER)

    for change in (
        "update split_fee_correction set fee_fen = 1",
        "delete from split_fee_correction",
    ):
        with pytest.raises(Exception, match="stays as it is"):
            await rows(change)

    assert sum((await told_in_all()).values()) == 4953


async def test_makers_of_two_days_at_once_instruct_late_money_once(
    database: str, city: City
) -> None:
    await pay(city)
    await make()
    await pay_late(300)

    answers = await asyncio.gather(
        *(make(day=day, now=DAY_AFTER) for day in (DAY, NEXT_DAY) * 3), return_exceptions=True
    )

    assert sum(isinstance(answer, NothingToInstruct) for answer in answers) == 5
    assert await count("split_instruction") == 3


async def test_two_makers_at_once_make_one_file(database: str, city: City) -> None:
    await pay(city)

    answers = await asyncio.gather(*(make() for _ in range(5)), return_exceptions=True)

    assert sum(isinstance(answer, NothingToInstruct) for answer in answers) == 4
    assert await count("split_export") == 1
    assert await count("split_instruction") == 2


async def test_refunds_of_the_day_take_back_and_a_reversed_one_gives_again(
    database: str, city: City
) -> None:
    await pay(city)
    in_flight = refund_in_flight(ACCOUNT)
    back = (payee_payable("treasury"), 500), (in_flight, 500)
    await post("refund_start", *back, key=start_key("R1"))
    await post("refund_reversal", (in_flight, 200), (payee_payable("treasury"), 200))

    export = await make({fee_key("R1", is_refund=True): 3})

    assert (export.total_fen, export.refund_fen, export.fee_fen) == (TOTAL + 200, 500, -3)
    standing = await split_standing(DAY, ACCOUNT)
    assert (standing.ledger_fen, standing.open_fen) == (TOTAL - 300, 0)
    taken = [row for row in await lines_of(export) if row[3] == "退款"]
    assert [row[4:7] for row in taken] == [["-5.00", "-0.03", "-4.97"]]
    assert (await lines_of(export))[-1][4] == "8252.24"


async def test_each_refund_of_a_payment_takes_back_its_own_fee(database: str, city: City) -> None:
    """As the channel's bill names them: by our refund number, of which a trade may have several."""
    await pay(city)
    (order,) = await rows("select id from pay_order")
    numbers = {await refunded(order["id"], 100): 1, await refunded(order["id"], 200): 2}

    export = await make(
        {fee_key(number, is_refund=True): fee_fen for number, fee_fen in numbers.items()}
    )

    assert (export.refund_fen, export.fee_fen) == (300, -3)
    found = await SplitInstruction.filter(is_refund=True)
    assert sorted((row.amount_fen, row.fee_fen) for row in found) == [(100, 1), (200, 2)]


BACK = (payee_payable("treasury"), 500), (refund_in_flight(ACCOUNT), 500)
FORTH = BACK[1], BACK[0]
SENT = {fee_key("R1", is_refund=True): 3}


async def test_a_refund_that_was_reversed_and_given_back_after_all_tells_its_fee_once(
    database: str, city: City
) -> None:
    await pay(city)
    await post("refund_start", *BACK, key=start_key("R1"))
    await post("refund_reversal", *FORTH)
    await post("refund_start", *BACK, key=start_key("R1", again=True))

    export = await make(SENT)

    assert (export.refund_fen, export.fee_fen) == (1000, -3)
    assert await told_in_all() == {"treasury": -3, "non_tax": 0}


@pytest.mark.parametrize("known_first", [True, False])
async def test_a_refund_given_back_after_its_file_tells_its_fee_once_over_all_files(
    database: str, city: City, known_first: bool
) -> None:
    await pay(city)
    await post("refund_start", *BACK, key=start_key("R1"))
    await make(SENT if known_first else {})
    await post("refund_reversal", *FORTH, now=later(days=2))
    await post("refund_start", *BACK, key=start_key("R1", again=True), now=later(days=2))

    await make(SENT, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER)

    assert await told_in_all() == {"treasury": -3, "non_tax": 0}
    with pytest.raises(NothingToInstruct):
        await make(SENT, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER)


async def test_a_fee_that_was_told_twice_once_is_taken_back_with_its_next_news(
    database: str, city: City
) -> None:
    """As files did that were made before a fee was told at the first start alone."""
    await pay(city)
    await post("refund_start", *BACK, key=start_key("R1"))
    await post("refund_reversal", *FORTH)
    await post("refund_start", *BACK, key=start_key("R1", again=True))
    await make(SENT)
    await rows(
        """insert into split_fee_correction (id, export_id, transfer_id, payee_code, is_refund,
                                             fee_fen)
           select gen_random_uuid(), i.export_id, i.transfer_id, i.payee_code, true, 3
           from split_instruction i join ledger_transfer t on t.id = i.transfer_id
           where t.idempotency_key = $1 returning id""",
        start_key("R1", again=True),
    )
    twice = (await told_in_all())["treasury"]
    broken = list(await broken_invariants())

    await make(SENT, fee_days=[DAY], day=NEXT_DAY, now=DAY_AFTER)

    assert (twice, (await told_in_all())["treasury"]) == (-6, -3)
    assert RULE in broken
    assert RULE not in await broken_invariants()


async def refunded(order_id: UUID, amount_fen: int) -> str:
    """A part of the order, approved by two persons; the refund's number."""
    left = sum(one.refundable_fen for one in await api.refundable_of(order_id=order_id))
    request = await api.ask_refund(
        order_id=order_id,
        amount_fen=amount_fen,
        believed_refundable_fen=left,
        reason="多缴退还",
        by="maker",
        now=later(minutes=1),
    )
    await api.approve_refund(request_id=request, by="checker", now=later(minutes=2))
    (refund,) = await api.refunds_of_request(request)
    return refund.refund_no


async def test_what_is_no_payment_of_this_account_and_day_is_left_out(
    database: str, city: City
) -> None:
    await pay(city)
    other, pay_out = clearing("alipay:2021000000000109"), clearing(ACCOUNT)
    await post("payment", (other, 11), (payee_payable("treasury"), 11))
    await post("payout", (payee_payable("treasury"), 12), (pay_out, 12))
    await post("payment", (pay_out, 13), (payee_payable("treasury"), 13), at=later(days=1))
    await post("suspense", (pay_out, 14), (f"suspense:{ACCOUNT}", 14))

    export = await make()

    assert export.total_fen == TOTAL


async def test_the_channels_clock_in_beijing_decides_the_day(database: str, city: City) -> None:
    midnight = NOW + timedelta(hours=14)  # 00:00 of the next day in Beijing
    account = clearing(ACCOUNT)
    for at, fen in ((midnight - timedelta(microseconds=1), 1), (midnight, 2)):
        await post("payment", (account, fen), (payee_payable("treasury"), fen), at=at)

    first = await make(now=later(days=2))
    second = await make(day=DAY + timedelta(days=1), now=later(days=2))

    assert (first.total_fen, second.total_fen) == (1, 2)


async def test_money_at_the_payees_own_merchants_needs_no_instruction(database: str) -> None:
    merchants = [FakeChannel(account_id=account) for account in MERCHANTS.values()]
    combining = CombiningChannel()
    city = City(merchants=MERCHANTS, others=[combining, *merchants])
    _, _, number = await city.opened()
    combining.pay(number)
    await api.settle_batch([api.from_report(combining.report(number))], now=NOW)

    with pytest.raises(NothingToInstruct):
        await make()
    for account in MERCHANTS.values():
        with pytest.raises(SplitExportNotFound):
            await make(account_id=account)
    assert await count("split_export") == 0


async def test_a_day_that_is_not_over_is_refused(database: str, city: City) -> None:
    await pay(city)

    with pytest.raises(SplitDayNotOver):
        await make(now=later(hours=13, minutes=59))

    assert await count("split_export") == 0


async def test_texts_in_the_file_are_no_formulas(database: str, city: City) -> None:
    await post(
        "payment",
        (clearing(ACCOUNT), 5),
        (payee_payable("treasury"), 5),
        our_no='=HYPERLINK("http://evil")',
    )

    export = await make()

    (line,) = [row for row in await lines_of(export) if row[0] == "1"]
    assert line[7] == '\'=HYPERLINK("http://evil")'


async def test_exports_and_instructions_are_never_changed(database: str, city: City) -> None:
    await pay(city)
    await make()

    for sql in (
        "update split_export set total_fen = 0",
        "delete from split_export",
        "update split_instruction set amount_fen = 1",
        "delete from split_instruction",
    ):
        with pytest.raises(Exception, match="stays as it is"):
            await rows(sql)
