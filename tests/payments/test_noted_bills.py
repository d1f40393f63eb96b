"""A bill changed by the centre after it was paid: each way the money goes has its defined end."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from estation.fees.actions import IncomingBill, merge_bills
from estation.fees.models import Bill, BillNoted
from estation.fees.queries import bill_of, noted_of
from estation.outside.gate.rows import FeeBillRow, FeeItemRow, PartyRow
from estation.outside.pay_channels import RefundStatus
from estation.payments import api
from estation.payments.api import OrderView
from estation.payments.invariants import broken_invariants
from estation.shared.transactions import in_transaction
from tests.payments.city import TOTAL, City, count, later, rows
from tests.payments.fakes import NOW
from tests.payments.pages import open_desk
from tests.payments.test_asked_refunds import approve, ask, give_back, paid, send

REVISED, REVISED_AGAIN = {"treasury": 700_000, "non_tax": 8_000}, {"treasury": 600_000}

NEWS: dict[str, list[tuple[str, dict[str, int]]]] = {
    "revised": [("issued", REVISED)],
    "revised twice": [("issued", REVISED), ("issued", REVISED_AGAIN)],
    "withdrawn": [("withdrawn", REVISED)],
    "withdrawn then revised": [("withdrawn", REVISED), ("issued", REVISED_AGAIN)],
}
MONEY = ("full", "partial", "abnormal", "abnormal, then redirected")


@dataclass(frozen=True)
class End:
    """Of the bill: state, version shown, amount shown."""

    state: str
    version: int
    total_fen: int


STAYS_PAID = End("paid", 1, TOTAL)
NEW = {
    "revised": End("payable", 2, 708_000),
    "revised twice": End("payable", 3, 600_000),
    "withdrawn": End("withdrawn", 2, 708_000),
    "withdrawn then revised": End("payable", 3, 600_000),
}
ENDS: dict[tuple[str, str], End] = {
    **{(news, "full"): NEW[news] for news in NEWS},
    **{(news, "partial"): STAYS_PAID for news in NEWS},
    **{(news, "abnormal"): STAYS_PAID for news in NEWS},
    **{(news, "abnormal, then redirected"): NEW[news] for news in NEWS},
}


def test_the_table_is_complete() -> None:
    assert set(ENDS) == {(news, money) for news in NEWS for money in MONEY}


@pytest.mark.parametrize(("news", "money"), list(ENDS))
async def test_every_combination_has_its_defined_end(database: str, news: str, money: str) -> None:
    city = City()
    bill, order, _ = await paid(city)
    await tell(bill, news)
    before = await shown(city, bill)

    await give(city, order, money)

    end = ENDS[news, money]
    row = await Bill.get(id=bill.id)
    now_shown = await shown(city, bill)
    assert before == STAYS_PAID, "while it is paid, the payer sees what was paid"
    assert now_shown == end
    assert (row.paid_at is None) == (end is not STAYS_PAID)
    items = (await bill_of(city.person_id, bill.id)).items
    assert sum(item.amount_fen for item in items) == end.total_fen
    assert await broken_invariants() == {}


async def test_what_was_brought_back_is_paid_and_given_back_like_any_bill(database: str) -> None:
    city = City()
    bill, order, _ = await paid(city)
    await tell(bill, "revised")
    await give(city, order, "full")

    again = await city.order(await Bill.get(id=bill.id), now=later(hours=9))
    number = (await city.attempt(again, now=later(hours=9))).out_trade_no
    await api.settle_batch([api.from_report(city.paid(number))], now=later(hours=9))
    paid_again = await shown(city, bill)
    await approve(await ask(again, 708_000, believed_refundable_fen=708_000, now=later(hours=10)))
    await give_back(city, later(hours=11))

    assert again.amount_fen == 708_000
    assert paid_again == End("paid", 2, 708_000)
    assert await shown(city, bill) == End("refunded", 2, 708_000), "nothing newer was noted"
    assert await broken_invariants() == {}


async def test_the_last_part_of_a_refund_brings_it_back(database: str) -> None:
    city = City()
    bill, order, _ = await paid(city)
    await give(city, order, "partial")
    await tell(bill, "revised")

    await approve(await ask(order, TOTAL - 8_000, believed_refundable_fen=TOTAL - 8_000))
    await give_back(city, later(hours=8))

    assert await shown(city, bill) == NEW["revised"]
    assert await broken_invariants() == {}


async def test_news_that_comes_while_all_of_it_is_on_its_way_back_is_due_afterwards(
    database: str,
) -> None:
    city = City()
    bill, order, _ = await paid(city)
    await approve(await ask(order, TOTAL))
    await send(city, later(hours=2))
    await tell(bill, "withdrawn then revised")

    await give_back(city, later(hours=3))

    assert await shown(city, bill) == NEW["withdrawn then revised"]
    assert await broken_invariants() == {}


async def test_a_refund_the_channel_closed_leaves_the_bill_paid(database: str) -> None:
    city = City()
    bill, order, _ = await paid(city)
    await tell(bill, "revised")
    await approve(await ask(order, TOTAL))
    await send(city, later(hours=1))
    (number,) = city.wechat.refunds
    closed = city.wechat.finish(number, RefundStatus.CLOSED)
    await api.settle_batch([api.from_refund(closed)], now=later(hours=2))

    assert await shown(city, bill) == STAYS_PAID
    assert await broken_invariants() == {}


async def test_the_newest_word_counts_in_whatever_order_it_comes(database: str) -> None:
    city = City()
    bill, order, _ = await paid(city)
    await arrive(bill, 3, "issued", REVISED_AGAIN)
    await arrive(bill, 2, "withdrawn", REVISED)
    await arrive(bill, 3, "issued", REVISED_AGAIN)

    await give(city, order, "full")

    assert await shown(city, bill) == NEW["revised twice"]


async def test_the_same_packet_again_notes_nothing_twice_and_undoes_nothing(database: str) -> None:
    city = City()
    bill, order, _ = await paid(city)
    await tell(bill, "revised")
    await tell(bill, "revised")
    noted = await BillNoted.all().count()
    await give(city, order, "full")
    await tell(bill, "revised")

    assert noted == 1
    assert await shown(city, bill) == NEW["revised"]
    assert await count("outbox_message", "topic = 'bill_changed_after_payment'") == 1


async def test_a_noted_change_of_the_payer_is_the_new_payers_bill(database: str) -> None:
    """A wrong buyer was billed and paid; the right one owes the revised amount."""
    city, other = City(), uuid4()
    bill, order, _ = await paid(city)
    await arrive(bill, 2, "issued", REVISED, payer_id=other)

    told = await noted_of(bill.id)
    await give(city, order, "full")

    assert told is not None
    assert told.is_another_payers
    assert (await bill_of(other, bill.id)).total_fen == 708_000


async def test_a_refunded_bill_whose_noted_version_was_lost_is_found(database: str) -> None:
    city = City()
    bill, order, _ = await paid(city)
    await tell(bill, "revised")
    await rows("delete from bill_noted returning id")

    await give(city, order, "full")

    assert await broken_invariants() == {
        "a_bill_is_refunded_when_all_of_it_was_given_back": [bill.bill_no]
    }


@pytest.mark.parametrize(
    ("news", "while_paid", "afterwards"),
    [
        (
            "revised",
            ("改成了", "7,080.00", "您已缴的仍然有效，现在不用再缴", "按新的金额重新待缴"),
            ("应缴合计", "7,080.00", "以前缴过，已经退款；现在按新的金额缴纳"),
        ),
        (
            "withdrawn",
            ("开单部门撤回了这张账单", "您已缴的仍然有效", "全部退款后不用再缴"),
            ("已经全部退款；开单部门已撤回它，不用再缴", "查看上次的缴费和退款"),
        ),
    ],
)
async def test_the_citizen_reads_it_in_plain_words(
    database: str, news: str, while_paid: tuple[str, ...], afterwards: tuple[str, ...]
) -> None:
    async with open_desk(City()) as desk:
        bill, order, _ = await paid(desk.city)
        await tell(bill, news)
        browser = await desk.citizen()

        _, before, _ = await browser.get(f"/fees/{bill.id}")
        await give(desk.city, order, "full")
        _, after, _ = await browser.get(f"/fees/{bill.id}")

    for word in while_paid:
        assert word in before, word
    for word in afterwards:
        assert word in after, word


async def test_a_new_payers_amount_is_not_told_to_the_old_one(database: str) -> None:
    async with open_desk(City()) as desk:
        bill, _, _ = await paid(desk.city)
        await arrive(bill, 2, "issued", REVISED, payer_id=uuid4())
        browser = await desk.citizen()

        _, page, _ = await browser.get(f"/fees/{bill.id}")

    assert "改了缴款人" in page
    assert "7,080.00" not in page


async def shown(city: City, bill: Bill) -> End:
    view = await bill_of(city.person_id, bill.id)
    return End(str(view.state), view.version, view.total_fen)


async def tell(bill: Bill, news: str) -> None:
    for version, (state, shares) in enumerate(NEWS[news], start=2):
        await arrive(bill, version, state, shares)


async def arrive(
    bill: Bill, version: int, state: str, shares: dict[str, int], **changes: Any
) -> None:
    row = FeeBillRow(
        source=bill.source,
        source_id=bill.source_id,
        version=version,
        region=bill.region,
        bill_no=bill.bill_no,
        case_source_id=bill.case_source_id,
        title=f"{bill.title}（第 {version} 版）",
        payer=PartyRow(role="buyer", name="x", id_type="1", id_no="x", phone="1"),
        state=state,  # type: ignore[arg-type]
        issued_at=later(hours=version),
        due_on=None,
        total_fen=sum(shares.values()),
        items=[
            FeeItemRow(
                seq=seq, code="deed_tax", name="契税", payee_code=payee, base_fen=None, rate="",
                relief_fen=0, amount_fen=amount_fen, formula="", legal_basis="",
            )
            for seq, (payee, amount_fen) in enumerate(shares.items(), start=1)
        ],
    )  # fmt: skip
    payer_id = changes.get("payer_id", bill.payer_id)
    digest = bytes([version]) * 32
    async with in_transaction() as db:
        await merge_bills(
            db, [IncomingBill(row, payer_id, digest)], data_as_of=later(minutes=version)
        )


async def give(city: City, order: OrderView, money: str) -> None:
    """The refund of a paid order, as far as this case goes."""
    if money == "partial":
        await approve(await ask(order, 8_000))
        await give_back(city, later(hours=2))
        return
    await approve(await ask(order, TOTAL))
    if money == "full":
        await give_back(city, later(hours=2))
        return
    await send(city, later(hours=1))
    (number,) = city.wechat.refunds
    report = city.wechat.finish(number, RefundStatus.ABNORMAL)
    await api.settle_batch([api.from_refund(report)], now=later(hours=2))
    if money == "abnormal, then redirected":
        (refund,) = await rows("select id from pay_refund")
        await redirect(city, refund["id"])
        await give_back(city, later(hours=4))


async def redirect(city: City, refund_id: Any) -> None:
    await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
    await api.redirect_abnormal(
        refund_id=refund_id, by="checker", services=city.services, now=later(hours=3)
    )


async def test_a_brought_back_bill_is_what_the_centre_sent(database: str) -> None:
    city = City()
    bill, order, _ = await paid(city)
    await tell(bill, "revised")
    await give(city, order, "full")

    row = await Bill.get(id=bill.id)
    assert row.title == f"{bill.title}（第 2 版）"
    assert row.issued_at == later(hours=2)
    assert row.data_as_of == later(minutes=2)
    assert row.row_digest == bytes([2]) * 32
    assert row.issued_at > NOW
