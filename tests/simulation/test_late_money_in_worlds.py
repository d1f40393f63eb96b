"""The worlds' end expects evidence of money that was applied to its bill later, and only then."""

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from estation.outside.pay_channels import BillRow
from estation.simulation.channels import Paid
from estation.simulation.finance import Finance
from estation.simulation.statements import Bill, BillDesk
from tests.payments.city import City, make_settings, rows
from tests.payments.plants import by_hand
from tests.reconciliation.days import WECHAT, Line
from tests.reconciliation.test_evidence import DAY, reconcile
from tests.reconciliation.test_late_evidence import AFTERWARDS, apply, came_late, look


@pytest.fixture
async def line(database: str) -> Line:
    """Its day is reconciled, and it waits in suspense."""
    made = await came_late(City())
    await reconcile(made)
    return made


async def faults(line: Line) -> list[str]:
    """What the worlds' finance says of the evidence of this payment."""
    (file,) = await rows("select sha256 from channel_bill_file")
    said = BillRow("payment", line.number, line.trade_no, None, line.fen, 0, line.at, "SUCCESS", 2)
    bills = SimpleNamespace(
        given={(WECHAT, DAY): Bill((said,), file["sha256"])}, wrong_on=lambda account_id, day: None
    )
    services: Any = SimpleNamespace(settings=make_settings())
    finance = Finance(services, cast(BillDesk, bills), DAY, random.Random(1))  # noqa: S311
    owner: Any = None
    paid = Paid(owner, WECHAT, line.number, line.number, line.trade_no, line.fen, line.at)
    found = await finance.faults([paid], now=AFTERWARDS)
    return [one for one in found if "evidence of" in one]


async def test_no_evidence_is_due_while_it_waits(line: Line) -> None:
    assert await faults(line) == []


async def test_it_is_due_once_the_money_pays_its_bill(line: Line) -> None:
    await apply(line)
    untold = await faults(line)

    await look()

    assert untold == [f"{line.number}: evidence of [], paid {line.fen}"]
    assert await faults(line) == []


async def test_evidence_of_money_that_pays_nothing_is_a_fault(line: Line) -> None:
    await apply(line)
    await look()
    (waited,) = await rows(
        "select id, idempotency_key from ledger_transfer where kind = 'suspense'"
    )
    await by_hand(f"update payment_evidence set transfer_id = '{waited['id']}'")

    assert await faults(line) == [
        f"{line.number}: evidence of [], paid {line.fen}",
        f"evidence of {waited['idempotency_key']}, which no channel has",
    ]
