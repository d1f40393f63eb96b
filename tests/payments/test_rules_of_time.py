"""When to ask, when to end, when a person must look: each boundary belongs to one side."""

from datetime import datetime, timedelta

import pytest

from estation.outside.pay_channels import SCENES, Channel, Scene
from estation.payments import rules
from estation.payments.rules import AttemptState, OrderState
from tests.payments.fakes import NOW

TICK = timedelta(microseconds=1)


@pytest.mark.parametrize("state", AttemptState)
@pytest.mark.parametrize("its", OrderState)
@pytest.mark.parametrize(("end", "is_over"), [(NOW + TICK, False), (NOW, True), (NOW - TICK, True)])
def test_an_attempt_must_end_when_nobody_may_pay_it_any_more(
    state: AttemptState, its: OrderState, end: datetime, is_over: bool
) -> None:
    must = rules.must_end(state, its, order_expires_at=end, now=NOW)

    if state is AttemptState.ABANDONED:
        assert must
    elif state in (AttemptState.OPENING, AttemptState.OPEN):
        assert must is (is_over or its is not OrderState.OPEN)
    else:
        assert not must


def test_an_attempt_is_silent_too_long_an_hour_after_its_orders_end() -> None:
    hour = timedelta(hours=1)

    assert rules.is_silent_too_long(NOW, now=NOW + hour)
    assert not rules.is_silent_too_long(NOW, now=NOW + hour - TICK)


def test_a_number_never_seen_is_over_ten_minutes_after_its_end() -> None:
    margin = timedelta(minutes=10)

    assert rules.life_is_over(NOW, now=NOW + margin)
    assert not rules.life_is_over(NOW, now=NOW + margin - TICK)


@pytest.mark.parametrize("scene", Scene)
def test_only_an_h5_link_dies_before_its_order(scene: Scene) -> None:
    """WeChat Pay's h5_url opens for five minutes; a minute is left to tap it."""
    four = timedelta(minutes=4)

    assert rules.ticket_serves(scene, None, now=NOW)
    assert rules.ticket_serves(scene, NOW, now=NOW + four - TICK)
    assert rules.ticket_serves(scene, NOW, now=NOW + four) is (scene is not Scene.H5)


def test_a_notice_is_tried_again_after_pauses_that_grow_to_ten_minutes() -> None:
    pauses = [rules.inbox_pause(tries).total_seconds() for tries in range(300)]

    assert pauses[:10] == [2, 4, 8, 16, 32, 64, 128, 256, 512, 600]
    assert set(pauses[10:]) == {600}


def test_the_tries_of_a_notice_reach_over_two_hours_of_trouble() -> None:
    tried_for = sum((rules.inbox_pause(n) for n in range(rules.MAX_INBOX_TRIES)), timedelta())

    assert timedelta(hours=2) < tried_for < timedelta(hours=3)


@pytest.mark.parametrize(
    ("end", "asked"),
    [
        (NOW - TICK, NOW + timedelta(seconds=10)),
        (NOW, NOW + timedelta(seconds=10)),
        (NOW + TICK, NOW + TICK),
        (NOW + timedelta(seconds=10), NOW + timedelta(seconds=10)),
        (NOW + timedelta(seconds=10) + TICK, NOW + timedelta(seconds=10)),
    ],
)
def test_the_next_question_is_never_later_than_an_end_that_is_still_to_come(
    end: datetime, asked: datetime
) -> None:
    assert rules.next_query_at(0, now=NOW, expires_at=end) == asked


@pytest.mark.parametrize("state", AttemptState)
@pytest.mark.parametrize("scene", Scene)
def test_a_code_leaves_the_screen_when_no_trade_can_lie_behind_it(
    state: AttemptState, scene: Scene
) -> None:
    """Without a ticket nobody saw the code; Alipay's codes and pages make no trade before use."""
    unused = scene in (Scene.PRECREATE, Scene.WAP, Scene.PAGE)

    assert rules.may_be_abandoned(state, scene) is (
        state is AttemptState.OPENING or (state is AttemptState.OPEN and unused)
    )


def test_what_makes_its_trade_later_is_alipays_and_what_is_bound_was_opened_for_somebody() -> None:
    assert SCENES[Channel.ALIPAY] - {Scene.TRADE_CREATE} == rules.UNSEEN_UNTIL_SCANNED
    assert {Scene.JSAPI, Scene.MINI_PROGRAM, Scene.TRADE_CREATE} == rules.BOUND_TO_A_PAYER
    assert not rules.UNSEEN_UNTIL_SCANNED & rules.BOUND_TO_A_PAYER
