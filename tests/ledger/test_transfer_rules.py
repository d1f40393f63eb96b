"""What is a transfer, what undoes one, and what a hold says: the pure rules."""

import re
import time
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from estation.ledger import api, rules
from estation.ledger.errors import NotAReversal, NotATransfer
from estation.ledger.rules import Leg, PostedEntry
from estation.shared.fields import MAX_FEN
from tests.ledger.making import ACCOUNT, NOW, payment, standing

ORDER = UUID(int=7)
CLEARING, PAYEE = api.clearing(ACCOUNT), api.payee_payable("treasury")

ONE_SIDE = "a leg has exactly one side above zero"
TOO_MUCH = f"not balanced: {MAX_FEN + 1} debit, {MAX_FEN + 1} credit"
TWICE = "an account occurs twice"
MEMOS = "memo accounts stand among themselves"
MALFORMED = "kind or key is malformed"
UNNAMED = "what undoes a transfer names it, and nothing else does"
UNDOING = "what undoes another transfer is not undone itself"
OTHER_LEGS = "the legs are not those of the original with sides exchanged"
OTHER_NUMBERS = "region and numbers are not those of the original"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "a"},
        {"kind": "a" * 32},
        {"idempotency_key": "k"},
        {"idempotency_key": "k" * 160},
        {"legs": [Leg(CLEARING, debit_fen=1), Leg(PAYEE, credit_fen=1)]},
        {"legs": [Leg(CLEARING, debit_fen=MAX_FEN), Leg(PAYEE, credit_fen=MAX_FEN)]},
        {"legs": [Leg(CLEARING, debit_fen=3), Leg(PAYEE, credit_fen=1),
                  Leg(api.payee_payable("non_tax"), credit_fen=2)]},
        {"kind": "hold", "legs": [Leg(api.hold_expected(), 5), Leg(api.hold_payee("a"), 0, 5)]},
        {"kind": "reversal", "reverses_id": str(uuid4())},
        {"kind": "hold_release", "reverses_id": str(uuid4())},
    ],
)  # fmt: skip
def test_a_balanced_movement_between_accounts_is_a_transfer(changes: dict[str, Any]) -> None:
    rules.check(payment(**changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"legs": []}, "not balanced: 0 debit, 0 credit"),
        ({"legs": [Leg(CLEARING, 1), Leg(PAYEE, 0, 2)]}, "not balanced: 1 debit, 2 credit"),
        ({"legs": [Leg(CLEARING, 2), Leg(PAYEE, 0, 1)]}, "not balanced: 2 debit, 1 credit"),
        ({"legs": [Leg(CLEARING, MAX_FEN + 1), Leg(PAYEE, 0, MAX_FEN + 1)]}, TOO_MUCH),
        ({"legs": [Leg(CLEARING, -1), Leg(PAYEE, 0, -1)]}, ONE_SIDE),
        ({"legs": [Leg(CLEARING, 2, -1), Leg(PAYEE, 0, 3)]}, ONE_SIDE),
        ({"legs": [Leg(CLEARING, -1, 2), Leg(PAYEE, 3)]}, ONE_SIDE),
        ({"legs": [Leg(CLEARING, 1, 1)]}, ONE_SIDE),
        ({"legs": [Leg(CLEARING, 1), Leg(PAYEE, 0, 1), Leg(api.payee_payable("x"))]},
         ONE_SIDE),
        ({"legs": [Leg(CLEARING, 1), Leg(CLEARING, 0, 1)]}, TWICE),
        ({"legs": [Leg("cash:1", 1), Leg(PAYEE, 0, 1)]}, "no such account: 'cash:1'"),
        ({"legs": [Leg(api.hold_expected(), 1), Leg(PAYEE, 0, 1)]}, MEMOS),
        ({"legs": [Leg(CLEARING, 1), Leg(api.hold_payee("a"), 0, 1)]}, MEMOS),
        ({"kind": ""}, MALFORMED),
        ({"kind": "a" * 33}, MALFORMED),
        ({"kind": "Payment"}, MALFORMED),
        ({"kind": "pay ment"}, MALFORMED),
        ({"idempotency_key": ""}, MALFORMED),
        ({"idempotency_key": "k" * 161}, MALFORMED),
        ({"kind": "reversal"}, UNNAMED),
        ({"kind": "hold_release"}, UNNAMED),
        ({"reverses_id": str(uuid4())}, UNNAMED),
    ],
)  # fmt: skip
def test_anything_else_is_none(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(NotATransfer, match=f"^{re.escape(why)}$"):
        rules.check(payment(**changes))


def test_a_long_account_name_is_cut_in_the_error() -> None:
    with pytest.raises(NotATransfer) as refused:
        rules.check(payment(legs=[Leg("x" * 500, 1), Leg(PAYEE, 0, 1)]))

    assert str(refused.value) == f"no such account: {'x' * 96!r}"


CHANGES: list[dict[str, Any]] = [
    {"kind": "suspense"},
    {"region": "360102"},
    {"order_id": ORDER},
    {"our_no": "T2"},
    {"channel_no": "4201"},
    {"occurred_at": NOW + timedelta(microseconds=1)},
    {"legs": payment(amount_fen=101).legs},
    {"legs": [Leg(CLEARING, credit_fen=100), Leg(PAYEE, debit_fen=100)]},
    {"reverses_id": str(ORDER)},
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_tells_every_difference_that_means_something(change: dict[str, Any]) -> None:
    assert rules.input_hash(payment(**change)) != rules.input_hash(payment())


def test_the_hash_tells_which_transfer_is_undone() -> None:
    one, other = str(UUID(int=1)), str(UUID(int=2))

    assert rules.input_hash(payment(reverses_id=one)) != rules.input_hash(
        payment(reverses_id=other)
    )


def test_the_hash_is_the_same_in_every_time_zone_and_for_every_order_of_legs() -> None:
    first = payment()
    same = structs.replace(
        first, id=str(uuid4()), legs=first.legs[::-1], occurred_at=NOW.astimezone(None)
    )

    assert rules.input_hash(first) == rules.input_hash(same)


def test_the_hash_does_not_ask_where_the_server_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    in_utc = rules.input_hash(payment())
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()

    in_beijing = rules.input_hash(payment())

    monkeypatch.undo()
    time.tzset()
    assert in_beijing == in_utc


def test_the_hash_of_what_was_posted_before_reversals_existed_still_holds() -> None:
    assert rules.input_hash(payment(order_id=ORDER)) == (
        "eb36559b3d9277991ce9079afe68556913965f6416d6b197d64816c8bd8cf083"
    )
    assert rules.input_hash(payment()) == (
        "5635edc1473afd51e2b5afd5ef50133c3eec0d5519a843ed92da7f72ba9ef20b"
    )


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (rules.reversal_key("0190"), "reversal:0190"),
        (rules.hold_key("20260803X"), "hold:20260803X"),
        (rules.hold_release_key("20260803X"), "hold_release:20260803X"),
    ],
)
def test_what_undoes_or_holds_has_a_key_of_its_own(key: str, text: str) -> None:
    assert key == text


def test_a_mirror_says_the_same_with_sides_exchanged() -> None:
    original = standing()
    later = NOW + timedelta(days=3)

    undoing = rules.mirror(original, kind="reversal", key="reversal:1", now=later)

    assert [(leg.account, leg.debit_fen, leg.credit_fen) for leg in undoing.legs] == [
        (CLEARING, 0, 100),
        (PAYEE, 100, 0),
    ]
    assert (undoing.kind, undoing.idempotency_key, undoing.reverses_id) == (
        "reversal", "reversal:1", original.id)  # fmt: skip
    assert (undoing.region, str(undoing.order_id), undoing.our_no, undoing.channel_no) == (
        original.region, original.order_id, "T1", "4200")  # fmt: skip
    assert undoing.occurred_at == later
    assert UUID(undoing.id).version == 7
    assert undoing.id != original.id
    rules.check(undoing)


def test_money_of_no_order_is_undone_for_no_order() -> None:
    undoing = rules.mirror(standing(order_id=None), kind="reversal", key="r", now=NOW)

    assert undoing.order_id is None


amounts = st.lists(st.integers(1, 10**9), min_size=1, max_size=6)


@given(amounts)
def test_a_transfer_and_its_mirror_leave_every_account_as_it_was(fen: list[int]) -> None:
    entries = [PostedEntry(str(uuid4()), CLEARING, sum(fen), 0)] + [
        PostedEntry(str(uuid4()), api.payee_payable(f"p{n}"), 0, one) for n, one in enumerate(fen)
    ]
    original = standing(entries=entries)

    undoing = rules.mirror(original, kind="reversal", key="r", now=NOW)

    left = {entry.account: entry.debit_fen - entry.credit_fen for entry in entries}
    for leg in undoing.legs:
        left[leg.account] += leg.debit_fen - leg.credit_fen
    assert set(left.values()) == {0}
    rules.check(undoing)


def test_what_undoes_another_transfer_is_not_undone() -> None:
    with pytest.raises(NotAReversal, match=rf"^{UNDOING}$"):
        rules.mirror(
            standing(kind="reversal", reverses_id=str(uuid4())), kind="reversal", key="r", now=NOW
        )


@pytest.mark.parametrize(
    ("original", "kind"), [("hold", "reversal"), ("payment", "hold_release"), ("payment", "refund")]
)
def test_holds_are_released_and_the_rest_is_reversed(original: str, kind: str) -> None:
    with pytest.raises(NotAReversal, match=f"{kind} does not undo {original}"):
        rules.mirror(standing(kind=original), kind=kind, key="r", now=NOW)


def test_a_hold_is_released() -> None:
    released = rules.mirror(standing(kind="hold"), kind="hold_release", key="r", now=NOW)

    assert released.kind == "hold_release"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"legs": [Leg(CLEARING, 0, 99), Leg(PAYEE, 99)]}, OTHER_LEGS),
        ({"legs": [Leg(CLEARING, 100), Leg(PAYEE, 0, 100)]}, OTHER_LEGS),
        ({"legs": [Leg(CLEARING, 0, 100)]}, OTHER_LEGS),
        ({"legs": [Leg(CLEARING, 0, 100), Leg(api.payee_payable("x"), 100)]}, OTHER_LEGS),
        ({"region": "360102"}, OTHER_NUMBERS),
        ({"order_id": None}, OTHER_NUMBERS),
        ({"order_id": ORDER}, OTHER_NUMBERS),
        ({"our_no": "T2"}, OTHER_NUMBERS),
        ({"channel_no": "4201"}, OTHER_NUMBERS),
    ],
)
def test_half_a_mirror_is_none(change: dict[str, Any], why: str) -> None:
    original = standing()
    undoing = rules.mirror(original, kind="reversal", key="r", now=NOW)

    with pytest.raises(NotAReversal, match=f"^{why}$"):
        rules.check_mirror(original, structs.replace(undoing, **change))


def test_a_hold_says_what_an_order_is_expected_to_bring() -> None:
    hold = api.hold_input("N1", ORDER, "360101", {"treasury": 70, "fund": 0, "non_tax": 30}, NOW)

    assert [(leg.account, leg.debit_fen, leg.credit_fen) for leg in hold.legs] == [
        ("hold_expected:any", 100, 0),
        ("hold_payee:treasury", 0, 70),
        ("hold_payee:non_tax", 0, 30),
    ]
    assert (hold.kind, hold.idempotency_key, hold.our_no, hold.channel_no) == (
        "hold", "hold:N1", "N1", "")  # fmt: skip
    assert (hold.order_id, hold.region, hold.occurred_at) == (ORDER, "360101", NOW)
    assert (hold.reverses_id, UUID(hold.id).version) == (None, 7)
    rules.check(hold)


@pytest.mark.parametrize("shares", [{}, {"treasury": 0}, {"a": -5, "b": 10}, {"a": -5}])
def test_a_hold_without_money_or_below_zero_is_no_transfer(shares: dict[str, int]) -> None:
    with pytest.raises(NotATransfer):
        rules.check(api.hold_input("N1", ORDER, "360101", shares, NOW))


def test_a_standing_transfer_knows_its_sum_and_whether_it_is_balanced() -> None:
    entry = PostedEntry
    assert (standing().debit_fen, standing().is_balanced) == (100, True)
    assert not standing(entries=[]).is_balanced
    assert not standing(entries=[entry("1", CLEARING, 0, 0)]).is_balanced
    assert not standing(entries=[entry("1", CLEARING, 5, 0), entry("2", PAYEE, 0, 4)]).is_balanced
