"""Combined payments as pure rules: where the money goes, and one judgement on all parts."""

from dataclasses import replace
from typing import Any

import pytest

from estation.outside.pay_channels import Channel, ChannelReport, ChannelState, ReportPart, Scene
from estation.payments import combining, rules
from estation.payments.combining import Route, judge_combined, part_number, route_of
from estation.payments.rules import (
    Arrival,
    AttemptNow,
    AttemptState,
    BillNow,
    IncidentKind,
    OrderNow,
    OrderState,
    OutcomeKind,
    Part,
    Posting,
)
from estation.shared import ids
from tests.payments.fakes import NOW

NUMBER = "20260803ABCDEFGHJKMNPQRS"
MERCHANTS = {"treasury": "wechat_pay:1", "non_tax": "wechat_pay:2"}
ASKED = (
    Part("non_tax", "wechat_pay:2", f"{NUMBER}-01", 40),
    Part("treasury", "wechat_pay:1", f"{NUMBER}-02", 60),
)
FIRST, SECOND = (
    ReportPart(
        part.account_id, part.out_trade_no, ChannelState.PAID, f"T{turn}", part.amount_fen, NOW
    )
    for turn, part in enumerate(ASKED)
)
PAID = ChannelReport(
    channel=Channel.WECHAT_PAY,
    account_id="wechat_combine:1",
    out_trade_no=NUMBER,
    state=ChannelState.PAID,
    channel_trade_no=NUMBER,
    paid_fen=100,
    paid_at=NOW,
    parts=(FIRST, SECOND),
)


def attempt(**changes: Any) -> AttemptNow:
    return AttemptNow(
        **{
            "id": ids.row_id(NOW),
            "channel": Channel.WECHAT_PAY,
            "account_id": "wechat_combine:1",
            "amount_fen": 100,
            "state": AttemptState.OPEN,
            "parts": ASKED,
            **changes,
        }
    )


def order(state: OrderState = OrderState.OPEN) -> OrderNow:
    return OrderNow(ids.row_id(NOW), state)


def judged(report: ChannelReport = PAID, **changes: Any) -> combining.CombinedVerdict:
    return judge_combined(
        report,
        **{
            "attempt": attempt(),
            "order": order(),
            "bills": [BillNow.AS_SEEN],
            "arrivals": {},
            **changes,
        },
    )


def route(**changes: Any) -> Route:
    return route_of(
        **{
            "sums": {"treasury": 60, "non_tax": 40},
            "scene": Scene.NATIVE,
            "out_trade_no": NUMBER,
            "merchants": MERCHANTS,
            "collecting": "wechat_pay:9",
            "combining": "wechat_combine:1",
            **changes,
        }
    )


def test_money_goes_straight_to_the_payees_where_each_has_an_account() -> None:
    assert route() == Route("wechat_combine:1", ASKED)
    assert route(sums={"treasury": 60, "non_tax": 0}) == Route("wechat_pay:1")
    assert len(route(sums={"treasury": 60, "non_tax": 1}).parts) == 2


def test_fifty_payees_are_the_most_that_one_act_can_pay() -> None:
    payees = [f"p{n:02}" for n in range(combining.MOST_PARTS)]

    made = route(sums=dict.fromkeys(payees, 1), merchants={p: f"wechat_pay:{p}" for p in payees})

    assert [part.payee_code for part in made.parts] == payees


@pytest.mark.parametrize(
    "changes",
    [
        {"sums": {}},
        {"merchants": {"treasury": "wechat_pay:1"}},
        {"combining": None},
        {"scene": Scene.H5},
        {
            "sums": {f"p{n:02}": 1 for n in range(51)},
            "merchants": {f"p{n:02}": f"wechat_pay:{n}" for n in range(51)},
        },
    ],
)
def test_else_it_goes_to_the_collecting_account(changes: dict[str, Any]) -> None:
    assert route(**changes) == Route("wechat_pay:9")


def test_a_parts_number_names_its_whole() -> None:
    assert part_number(NUMBER, 7) == f"{NUMBER}-07"
    assert combining.is_part(f"{NUMBER}-07")
    assert not combining.is_part(NUMBER)
    assert combining.whole_number(f"{NUMBER}-07") == combining.whole_number(NUMBER) == NUMBER
    with pytest.raises(ValueError, match="no part number"):
        part_number("x" * 30, 1)


def test_a_row_without_parts_has_none() -> None:
    assert combining.parts_of(None) == ()
    stored = {
        "payee_code": "non_tax",
        "account_id": "wechat_pay:2",
        "out_trade_no": f"{NUMBER}-01",
        "amount_fen": 40,
    }
    assert combining.parts_of([stored]) == ASKED[:1]


def test_all_parts_as_asked_are_applied_together() -> None:
    found = judged()

    assert (found.verdict, found.post, found.tell) == (rules.APPLIED, (FIRST, SECOND), ())


@pytest.mark.parametrize(
    "report",
    [
        replace(PAID, paid_at=None),
        replace(PAID, parts=(replace(FIRST, state=ChannelState.NOT_PAID),)),
        replace(PAID, parts=(replace(FIRST, channel_trade_no=None), SECOND)),
        replace(PAID, parts=(replace(FIRST, paid_at=None), SECOND)),
        replace(PAID, parts=(replace(FIRST, paid_fen=None), SECOND)),
        replace(PAID, parts=(replace(FIRST, paid_fen=0), SECOND)),
        replace(PAID, parts=(replace(FIRST, paid_fen=-1), SECOND)),
        replace(PAID, parts=(FIRST, replace(FIRST, out_trade_no=f"{NUMBER}-02"))),
    ],
)
def test_a_success_that_does_not_name_its_money_posts_nothing(report: ChannelReport) -> None:
    found = judged(report)

    assert found.verdict.incident is IncidentKind.INCOMPLETE_NEWS
    assert (found.verdict.posting, found.post, found.tell) == (None, (), ())


@pytest.mark.parametrize("known", [(FIRST,), (FIRST, SECOND)])
def test_another_sum_than_the_books_have_is_a_contradiction(known: tuple[ReportPart, ...]) -> None:
    arrivals = {combining.part_key(part): Arrival(1) for part in known}

    found = judged(arrivals=arrivals)

    assert found.verdict.incident is IncidentKind.CONTRADICTING_NEWS
    assert found.post == tuple(part for part in (FIRST, SECOND) if part not in known)
    assert found.verdict.posting is (Posting.SUSPENSE if found.post else None)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"attempt": None, "order": None}, IncidentKind.UNKNOWN_ORDER),
        ({"attempt": attempt(account_id="wechat_combine:2")}, IncidentKind.WRONG_ACCOUNT),
        ({"order": None}, IncidentKind.WRONG_ACCOUNT),
        (
            {"attempt": attempt(state=AttemptState.PAID, paid_fen=100)},
            IncidentKind.DOUBLE_PAYMENT,
        ),
        ({"attempt": attempt(state=AttemptState.PAID, paid_fen=40)}, IncidentKind.WRONG_AMOUNT),
    ],
)
def test_money_that_is_nobodys_waits_and_what_is_known_is_no_news(
    changes: dict[str, Any], kind: IncidentKind
) -> None:
    known = {combining.part_key(part): Arrival(part.paid_fen or 0) for part in (FIRST, SECOND)}

    fresh, again = judged(**changes), judged(**changes, arrivals=known)

    assert (fresh.verdict.incident, fresh.verdict.outcome) == (kind, OutcomeKind.INCIDENT)
    assert fresh.post == fresh.tell == (FIRST, SECOND)
    assert again.verdict is rules.REPEATED


def test_parts_that_came_before_we_knew_the_number_end_the_order_unpaid() -> None:
    found = judged(arrivals={combining.part_key(FIRST): Arrival(40)})

    assert found.verdict.incident is IncidentKind.UNKNOWN_ORDER
    assert (found.post, found.tell) == ((SECOND,), (FIRST, SECOND))
    assert found.verdict.order_to is OrderState.CLOSED
    assert found.verdict.posting is Posting.SUSPENSE


def test_when_both_parts_came_before_we_knew_the_number_nothing_is_posted_again() -> None:
    arrivals = {combining.part_key(FIRST): Arrival(40), combining.part_key(SECOND): Arrival(60)}

    found = judged(arrivals=arrivals)

    assert found.verdict.incident is IncidentKind.UNKNOWN_ORDER
    assert (found.post, found.tell) == ((), (FIRST, SECOND))
    assert found.verdict.posting is None


def test_a_part_of_one_fen_is_money_like_any_other() -> None:
    one_fen = replace(FIRST, paid_fen=1)

    found = judged(replace(PAID, paid_fen=61, parts=(one_fen, SECOND)))

    assert found.verdict.incident is IncidentKind.WRONG_AMOUNT
    assert found.post == (one_fen, SECOND)


def test_a_part_stands_in_the_books_under_its_own_merchants_trade() -> None:
    assert combining.part_key(FIRST) == rules.arrival_key("wechat_pay:2", "T0")
    assert combining.part_key(replace(FIRST, channel_trade_no=None)) == rules.arrival_key(
        "wechat_pay:2", ""
    )


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (replace(PAID, parts=(FIRST, replace(SECOND, out_trade_no="other"))),
         IncidentKind.CONTRADICTING_NEWS),
        (replace(PAID, parts=(FIRST, replace(SECOND, out_trade_no=FIRST.out_trade_no))),
         IncidentKind.CONTRADICTING_NEWS),
        (replace(PAID, parts=(FIRST, replace(SECOND, account_id="wechat_pay:3"))),
         IncidentKind.WRONG_ACCOUNT),
        (replace(PAID, parts=(FIRST, replace(SECOND, paid_fen=61))), IncidentKind.WRONG_AMOUNT),
        (replace(PAID, parts=(FIRST,)), IncidentKind.WRONG_AMOUNT),
        (replace(PAID, paid_fen=99), IncidentKind.WRONG_AMOUNT),
        (replace(PAID, was_refunded=True), IncidentKind.ALREADY_REFUNDED),
    ],
)  # fmt: skip
def test_parts_unlike_those_asked_for_are_all_set_aside(
    report: ChannelReport, kind: IncidentKind
) -> None:
    found = judged(report)

    assert found.verdict.incident is kind
    assert found.post == found.tell == report.parts
    assert found.verdict.attempt_to is AttemptState.PAID


def test_a_bill_that_changed_sets_all_parts_aside() -> None:
    found = judged(bills=[BillNow.AS_SEEN, BillNow.WITHDRAWN])

    assert found.verdict.incident is IncidentKind.BILL_WITHDRAWN
    assert found.verdict.posting is Posting.SUSPENSE
