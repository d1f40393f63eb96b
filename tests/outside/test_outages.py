"""When a channel counts as out, and when it is tried again."""

from datetime import UTC, datetime, timedelta

import pytest

from estation.outside.pay_channels import ChannelRefused, ChannelUnknown
from estation.outside.pay_channels.outages import SILENCES, Outages, pause

NOW = datetime(2026, 8, 3, 2, 0, 0, tzinfo=UTC)
ONE, OTHER = "wechat_pay:1", "alipay:1"


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def silent(outages: Outages, at: datetime = NOW, *, code: str = "TIMEOUT") -> None:
    with pytest.raises(ChannelUnknown), outages.listening(ONE, now=at):
        raise ChannelUnknown(code)


def out(at: datetime = NOW) -> Outages:
    outages = Outages()
    for _ in range(SILENCES):
        silent(outages, at)
    return outages


@pytest.mark.parametrize(
    ("pauses", "seconds"), [(0, 5), (1, 10), (4, 80), (5, 120), (6, 120), (10**6, 120)]
)
def test_pauses_double_to_two_minutes(pauses: int, seconds: int) -> None:
    assert pause(pauses) == timedelta(seconds=seconds)


def test_some_silences_are_no_outage() -> None:
    outages = Outages()
    for _ in range(SILENCES - 1):
        silent(outages)

    assert outages.allowed(ONE, now=NOW, most=8) == 8
    assert outages.until(ONE, now=NOW) == NOW


def test_an_account_that_is_out_is_tried_by_one_after_the_pause_and_the_others_as_ever() -> None:
    outages = out()

    assert outages.until(ONE, now=after(1)) == after(5)
    assert outages.until(ONE, now=after(60)) == after(60)
    assert [outages.allowed(ONE, now=after(s), most=8) for s in (0, 4.9, 5, 60)] == [0, 0, 1, 1]
    assert outages.allowed(OTHER, now=NOW, most=8) == 8


def test_the_one_try_is_handed_out_once() -> None:
    outages = out()

    assert [outages.allowed(ONE, now=after(5), most=8) for _ in range(20)] == [1] + [0] * 19
    silent(outages, after(5))
    assert outages.until(ONE, now=after(6)) == after(15), "its silence is no second pause"
    assert [outages.allowed(ONE, now=after(15), most=1) for _ in range(2)] == [1, 0]


def test_a_try_whose_end_nobody_heard_is_followed_by_another() -> None:
    outages = out()

    assert outages.allowed(ONE, now=after(5), most=8) == 1
    assert [outages.allowed(ONE, now=after(s), most=8) for s in (14, 15)] == [0, 1]


def test_those_under_way_together_are_one_silence_to_the_pauses() -> None:
    outages = out()
    for _ in range(20):
        silent(outages)

    assert outages.until(ONE, now=NOW) == after(5)
    silent(outages, after(5))
    assert outages.until(ONE, now=after(5)) == after(15)


def test_any_answer_ends_it_also_a_refusal() -> None:
    outages = out()

    with pytest.raises(ChannelRefused), outages.listening(ONE, now=after(5)):
        raise ChannelRefused("NO_AUTH")

    assert outages.allowed(ONE, now=after(5), most=8) == 8
    silent(outages, after(6))
    assert outages.allowed(ONE, now=after(6), most=8) == 8


def test_what_is_no_word_of_the_channel_counts_for_nothing() -> None:
    outages = Outages()
    for _ in range(SILENCES):
        silent(outages, code="NOT_CONFIGURED")
        with pytest.raises(ZeroDivisionError), outages.listening(ONE, now=NOW):
            raise ZeroDivisionError

    assert outages.allowed(ONE, now=NOW, most=8) == 8


def test_an_account_short_of_money_has_answered() -> None:
    """Its refunds wait for finance; nobody else's question does."""
    outages = Outages()
    for _ in range(SILENCES - 1):
        silent(outages)
    for _ in range(SILENCES):
        silent(outages, code="NOT_ENOUGH")
    silent(outages)

    assert outages.allowed(ONE, now=NOW, most=8) == 8
