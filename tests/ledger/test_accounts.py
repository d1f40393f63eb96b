"""The grammar of account names, and which side each kind of account stands on."""

import pytest

from estation.ledger import api
from estation.ledger.errors import NotATransfer
from estation.ledger.rules import ACCOUNT_KINDS, is_account

MERCHANT = "wechat_pay:1900000109"


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (api.clearing(MERCHANT), "channel_clearing:wechat_pay:1900000109"),
        (api.clearing("wechat_combine:1900000109"), "channel_clearing:wechat_combine:1900000109"),
        (api.payee_payable("treasury"), "payee_payable:treasury"),
        (api.suspense("alipay:2021000117"), "suspense:alipay:2021000117"),
        (api.refund_in_flight(MERCHANT), "refund_in_flight:wechat_pay:1900000109"),
        (api.settled_outside(MERCHANT), "settled_outside:wechat_pay:1900000109"),
        (api.overpaid_back(MERCHANT), "overpaid_back:wechat_pay:1900000109"),
        (api.received_outside(MERCHANT), "received_outside:wechat_pay:1900000109"),
        (api.written_off(MERCHANT), "written_off:wechat_pay:1900000109"),
        (api.channel_fee(MERCHANT), "channel_fee:wechat_pay:1900000109"),
        (api.hold_expected(), "hold_expected:any"),
        (api.hold_expected(MERCHANT), "hold_expected:wechat_pay:1900000109"),
        (api.hold_payee("non_tax"), "hold_payee:non_tax"),
        (api.bank("non_tax"), "bank:non_tax"),
    ],
)
def test_every_helper_names_an_account_of_the_grammar(made: str, name: str) -> None:
    assert made == name
    assert is_account(made)


@pytest.mark.parametrize("kind", ["channel_clearing", "suspense", "refund_in_flight",
                                  "settled_outside", "overpaid_back", "received_outside",
                                  "written_off", "channel_fee",
                                  "hold_expected"])  # fmt: skip
@pytest.mark.parametrize(
    ("whose", "is_one"),
    [
        ("a:1", True),
        ("wechat_pay:" + "9" * 32, True),
        ("a" * 16 + ":A", True),
        ("a" * 17 + ":A", False),
        ("wechat_pay:" + "9" * 33, False),
        ("wechat_pay:", False),
        (":1", False),
        ("WeChat:1", False),
        ("wechat_pay:1_2", False),
        ("wechat_pay:1\n", False),
        ("wechat_pay:1:2", False),
        ("treasury", False),
        ("", False),
    ],
)
def test_a_merchants_account_is_named_by_channel_and_merchant(
    kind: str, whose: str, is_one: bool
) -> None:
    assert is_account(f"{kind}:{whose}") is is_one


@pytest.mark.parametrize("kind", ["payee_payable", "hold_payee", "bank"])
@pytest.mark.parametrize(
    ("whose", "is_one"),
    [("treasury", True), ("a" * 32, True), ("p_1", True), ("a" * 33, False), ("", False),
     ("Treasury", False), ("a:b", False), ("a b", False), ("国库", False)],
)  # fmt: skip
def test_a_payees_account_is_named_by_its_code(kind: str, whose: str, is_one: bool) -> None:
    assert is_account(f"{kind}:{whose}") is is_one


@pytest.mark.parametrize("name", ["any", "channel_clearing:any", "suspense:any", "bank",
                                  "xbank:a", "hold_expected:anyone", "x:bank:a"])  # fmt: skip
def test_only_a_hold_may_leave_the_channel_open(name: str) -> None:
    assert not is_account(name)


@pytest.mark.parametrize(
    ("account", "side", "may_go_negative", "is_memo"),
    [
        (api.clearing(MERCHANT), "debit", True, False),
        (api.payee_payable("treasury"), "credit", False, False),
        (api.suspense(MERCHANT), "credit", False, False),
        (api.refund_in_flight(MERCHANT), "credit", False, False),
        (api.settled_outside(MERCHANT), "credit", False, False),
        (api.overpaid_back(MERCHANT), "debit", False, False),
        (api.received_outside(MERCHANT), "debit", False, False),
        (api.written_off(MERCHANT), "debit", False, False),
        (api.channel_fee(MERCHANT), "debit", True, False),
        (api.hold_expected(), "debit", False, True),
        (api.hold_payee("treasury"), "credit", False, True),
        (api.bank("treasury"), "debit", True, False),
    ],
)
def test_every_kind_says_where_it_grows_and_whether_it_may_go_below_zero(
    account: str, side: str, may_go_negative: bool, is_memo: bool
) -> None:
    kind = api.account_kind(account)

    assert (kind.normal_side, kind.may_go_negative, kind.is_memo) == (
        side, may_go_negative, is_memo)  # fmt: skip
    assert len(ACCOUNT_KINDS) == 12


def test_a_name_outside_the_grammar_has_no_kind() -> None:
    with pytest.raises(NotATransfer, match="no such account"):
        api.account_kind("petty_cash:1")
