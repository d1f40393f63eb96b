"""A bill that changes while it is being paid: each combination has its defined end."""

from dataclasses import dataclass

import pytest

from estation.fees.models import Bill
from estation.ledger.api import balance
from estation.outside.pay_channels import ChannelState, RefundStatus
from estation.payments import api, jobs
from estation.payments.invariants import broken_invariants
from tests.payments.city import TOTAL, City, count, later, rows
from tests.payments.fakes import UNKNOWN

CLEARING = "channel_clearing:wechat_pay:1900000109"

CHANGES = {
    "revised": "version = 2",
    # A copy that was wrong is mended by the gate in its own version.
    "mended": "total_fen = total_fen + 100",
    "withdrawn": "version = 2, state = 'withdrawn'",
    "paid otherwise": "state = 'paid', paid_at = now(), paid_version = 1",
}


@dataclass(frozen=True)
class End:
    """`order`: its state and why; `attempt`: its state; `gives_back`: the money returned."""

    order: tuple[str, str]
    attempt: str
    gives_back: bool


UNPAID = End(("closed", "bill_changed"), "closed", gives_back=False)
EXPIRED = End(("closed", "expired"), "closed", gives_back=False)

ENDS: dict[tuple[str, str], End] = {
    ("revised", "opening"): UNPAID,
    ("revised", "open"): UNPAID,
    ("revised", "paying"): End(("closed", "bill_revised"), "paid", gives_back=True),
    ("revised", "abandoned"): UNPAID,
    ("revised", "paid, no news"): End(("closed", "bill_revised"), "paid", gives_back=True),
    ("mended", "opening"): UNPAID,
    ("mended", "open"): UNPAID,
    ("mended", "paying"): End(("closed", "bill_revised"), "paid", gives_back=True),
    ("mended", "abandoned"): UNPAID,
    ("mended", "paid, no news"): End(("closed", "bill_revised"), "paid", gives_back=True),
    ("withdrawn", "opening"): UNPAID,
    ("withdrawn", "open"): UNPAID,
    ("withdrawn", "paying"): End(("closed", "bill_withdrawn"), "paid", gives_back=True),
    ("withdrawn", "abandoned"): UNPAID,
    ("withdrawn", "paid, no news"): End(("closed", "bill_withdrawn"), "paid", gives_back=True),
    # A paid bill may be our own payment a moment ago, so nothing is closed in a hurry: the code
    # lives to its end, and money that comes goes back.
    ("paid otherwise", "opening"): EXPIRED,
    ("paid otherwise", "open"): EXPIRED,
    ("paid otherwise", "paying"): End(("closed", "bill_already_paid"), "paid", gives_back=True),
    ("paid otherwise", "abandoned"): EXPIRED,
    ("paid otherwise", "paid, no news"): End(
        ("closed", "bill_already_paid"), "paid", gives_back=True
    ),
}
ATTEMPTS = ("opening", "open", "paying", "abandoned", "paid, no news")


def test_the_table_is_complete() -> None:
    assert set(ENDS) == {(change, attempt) for change in CHANGES for attempt in ATTEMPTS}


async def put_into(city: City, number: str, attempt: str) -> None:
    """Bring the open attempt into this state, at the channel and here."""
    trade = city.wechat.trades[number]
    if attempt == "opening":
        # The channel's answer to the opening was lost.
        await rows("update pay_attempt set state = 'opening', ticket = null returning id")
    elif attempt == "paying":
        trade.state, city.wechat.busy = ChannelState.PAYING, True
    elif attempt == "abandoned":
        await rows("update pay_attempt set state = 'abandoned' returning id")
    elif attempt == "paid, no news":
        city.wechat.pay(number)


@pytest.mark.parametrize(("change", "attempt"), list(ENDS))
async def test_every_combination_has_its_defined_end(
    database: str, change: str, attempt: str
) -> None:
    city = City()
    bill, order, number = await city.opened()
    await put_into(city, number, attempt)
    if change == "paid otherwise":
        await pay_otherwise(city, bill)
    else:
        await rows(f"update bill set {CHANGES[change]} where id = $1 returning id", bill.id)
    before = await rows("select * from bill")

    for minutes in (0.2, 1, 2, 3, 16, 17, 40):
        at = later(minutes=minutes)
        await jobs.query_silent_attempts(city.services, now=at)
        await jobs.close_due_orders(city.services, now=at)
        if attempt == "paying" and minutes == 2:
            city.wechat.pay(number, at=at)
            city.wechat.busy = False
        city.wechat.now = at
        await jobs.send_refunds(city.services, now=at)
        for refund_no, refund in city.wechat.refunds.items():
            if refund.status is RefundStatus.PROCESSING:
                report = city.wechat.finish(refund_no, at=at)
                await api.settle_batch([api.from_refund(report)], now=at)

    end = ENDS[change, attempt]
    shown = await api.order_of(city.person_id, order.id)
    (tried,) = await rows("select state from pay_attempt where out_trade_no = $1", number)
    assert (shown.state, shown.close_reason) == end.order
    assert tried["state"] == end.attempt
    assert await count("pay_refund", "state = 'succeeded'") == end.gives_back
    assert await balance(CLEARING) == (TOTAL if change == "paid otherwise" else 0)
    assert await rows("select * from bill") == before
    assert await count("incident", "state = 'open'") == 0
    assert await count("pay_order_bill", "is_open") == 0
    assert await broken_invariants() == {}


async def pay_otherwise(city: City, bill: Bill) -> None:
    """Another order of the bill is paid. It can only have been open before this one was made:
    its code was closed here, and paid at the channel all the same."""
    await rows("update pay_order_bill set is_open = false returning id")
    other = await city.order(await Bill.get(id=bill.id))
    number = (await city.attempt(other)).out_trade_no
    await api.settle_batch([api.from_report(city.paid(number))], now=later(seconds=5))
    await rows(
        """update pay_order_bill b set is_open = true from pay_order o
           where o.id = b.order_id and o.state = 'open' returning b.id"""
    )


async def test_a_change_while_the_channel_is_silent_waits_for_its_word(
    database: str,
) -> None:
    """Not known is not closed: the order ends only when the channel has spoken."""
    city = City()
    bill, order, number = await city.opened()
    city.wechat.trouble["query"] = city.wechat.trouble["close"] = UNKNOWN
    await rows("update bill set version = 2 where id = $1 returning id", bill.id)

    for minutes in (1, 16, 30):
        await jobs.query_silent_attempts(city.services, now=later(minutes=minutes))
        await jobs.close_due_orders(city.services, now=later(minutes=minutes))

    assert (await api.order_of(city.person_id, order.id)).state == "open"
    assert (await rows("select state from pay_attempt where out_trade_no = $1", number)) == [
        {"state": "open"}
    ]
