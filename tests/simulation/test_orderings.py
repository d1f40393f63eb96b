"""Every ordering of one order's events, up to all eight of them, ends in the same money."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from estation.payments import rules
from estation.payments.actions.writing import Writing
from estation.payments.rules import Verdict
from estation.simulation import running
from estation.simulation.orderings import EVENTS, WrongMoney, orders_of_length
from tests.simulation.test_worlds import forgetful


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "local")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_ordering_of_eight_events_ends_in_the_same_money(cluster: Path) -> None:
    found = running.explore_here(cluster=cluster)

    assert found.complete == orders_of_length(EVENTS, 8) == 20_160
    assert found.histories == sum(orders_of_length(EVENTS, length) for length in range(9))
    assert set(found.outcomes) == {"paid", "refunded", "nothing"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("family", "length"), [("alipay", 4), ("combined", 3)])
def test_so_do_codes_that_are_paid_after_their_close_and_combined_orders(
    family: str, length: int, cluster: Path
) -> None:
    """D1: also where success comes after the close, there is one truth everywhere. Of some events
    (close, pay and callback are three); `estation simulate orderings` plays all eight."""
    found = running.explore_here(length=length, family=family, cluster=cluster)

    assert found.complete == orders_of_length(EVENTS, length)
    assert set(found.outcomes) == {"paid", "refunded", "nothing"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", ["wechat_pay", "alipay"])
def test_a_close_that_outweighs_money_is_found(
    family: str, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "judge", deaf_after_the_end(rules.judge))

    with pytest.raises(WrongMoney, match="pay"):
        running.explore_here(length=4, family=family, cluster=cluster)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_part_of_a_combined_order_that_is_not_booked_is_found(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writing, "post_part", forgetful(Writing.post_part))

    with pytest.raises(WrongMoney, match="pay"):
        running.explore_here(length=3, family="combined", cluster=cluster)


def deaf_after_the_end(judge: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """News of money that meets an order past its time is taken for old (D1, D2)."""

    def judged(report: Any, **values: Any) -> Verdict:
        order = values["order"]
        if order is not None and report.paid_at and order.close_reason:
            return rules.REPEATED
        verdict = judge(report, **values)
        return rules.NOTED if verdict.outcome is rules.OutcomeKind.APPLIED else verdict

    return judged
