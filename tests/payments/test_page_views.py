"""What citizen pages say of bills and wallets, as tables."""

import re
from types import SimpleNamespace as Values
from typing import Any

import pytest

from estation.outside.pay_channels import Scene
from estation.payments.pages.views import (
    ATTEMPT_NAMES,
    payee_groups,
    payee_sums,
    rate_words,
    stands_in,
    wallet_choices,
)
from estation.settings import Payee
from estation.shared.pages import H5
from estation.shared.qr import qr_svg

PAYEES = [
    Payee(code="treasury", name="国库", kind="treasury", receipt_title="凭据"),
    Payee(code="non_tax", name="非税专户", kind="non_tax", receipt_title="凭据"),
]
COMPUTER = "Mozilla/5.0 (X11; Linux x86_64) Chrome/148.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Safari/604.1"
TELEPHONE = "Mozilla/5.0 (Linux; Android 14) Chrome/148.0 Mobile Safari/537.36"


def item(name: str, payee: str, amount_fen: int) -> Any:
    return Values(
        name=name,
        payee_code=payee,
        amount_fen=amount_fen,
        base_fen=None,
        rate="0.03",
        relief_fen=0,
        formula="",
        legal_basis="",
        note="",
    )


def test_items_stand_under_their_payee_and_the_subtotals_add_up() -> None:
    items = [
        item("印花税", "treasury", 0),
        item("登记费", "non_tax", 8000),
        item("契税", "treasury", 809524),
    ]

    groups = payee_groups(items, PAYEES)

    assert [(group.name, group.subtotal_fen) for group in groups] == [
        ("国库", 809524),
        ("非税专户", 8000),
    ]
    assert [line.name for line in groups[0].lines] == ["契税", "印花税"]
    assert sum(group.subtotal_fen for group in groups) == sum(one.amount_fen for one in items)


def test_a_zero_tax_is_exempt_and_a_zero_fee_is_waived() -> None:
    groups = payee_groups([item("印花税", "treasury", 0), item("登记费", "non_tax", 0)], PAYEES)

    assert [group.lines[0].zero_word for group in groups] == ["免征", "免收"]


def test_a_payee_we_do_not_know_is_shown_by_its_code_not_dropped() -> None:
    groups = payee_groups([item("土地出让金", "land", 500)], PAYEES)

    assert (groups[0].name, groups[0].subtotal_fen) == ("land", 500)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        ("0.01", "1%"),
        ("0.015", "1.5%"),
        ("0.0005", "0.05%"),
        ("0", ""),
        ("", ""),
        ("80元/件", "80元/件"),
        ("1", "100%"),
        ("NaN", ""),
    ],
)
def test_a_rate_is_read_as_people_say_it(rate: str, words: str) -> None:
    assert rate_words(rate) == words


@pytest.mark.parametrize(
    ("user_agent", "has_openid", "scenes"),
    [
        (COMPUTER, False, [Scene.NATIVE, Scene.PRECREATE, Scene.PAGE]),
        (TELEPHONE, False, [Scene.H5, Scene.WAP, Scene.NATIVE, Scene.PRECREATE]),
        (TELEPHONE, True, [Scene.H5, Scene.WAP, Scene.NATIVE, Scene.PRECREATE]),
        (IPHONE, False, [Scene.H5, Scene.WAP, Scene.NATIVE, Scene.PRECREATE]),
        (f"{TELEPHONE} MicroMessenger/8.0", True, [Scene.JSAPI, Scene.NATIVE, Scene.PRECREATE]),
        (f"{TELEPHONE} MicroMessenger/8.0", False, [Scene.NATIVE, Scene.PRECREATE]),
        (f"{TELEPHONE} AlipayClient/10.5", False, [Scene.WAP, Scene.PRECREATE, Scene.NATIVE]),
        (f"{COMPUTER} MicroMessenger/3.9", True, [Scene.JSAPI, Scene.NATIVE, Scene.PRECREATE]),
        ("", False, [Scene.NATIVE, Scene.PRECREATE, Scene.PAGE]),
    ],
)
def test_the_ways_to_pay_fit_where_the_payer_stands(
    user_agent: str, has_openid: bool, scenes: list[Scene]
) -> None:
    choices = wallet_choices(user_agent, has_openid=has_openid)

    assert [choice.scene for choice in choices] == scenes


@pytest.mark.parametrize(
    ("user_agent", "place"),
    [
        (f"{TELEPHONE} MicroMessenger/8.0", "wechat"),
        (f"{TELEPHONE} AlipayClient/10.5", "alipay"),
        (TELEPHONE, "elsewhere"),
        (COMPUTER, "elsewhere"),
        ("", "elsewhere"),
    ],
)
def test_a_page_knows_the_wallet_it_is_open_in(user_agent: str, place: str) -> None:
    assert stands_in(user_agent) == place


def test_where_wechats_sheet_cannot_open_the_script_names_a_button_that_is_there() -> None:
    said = (H5 / "src" / "jsapi.ts").read_text(encoding="utf-8")
    (named,) = re.findall(r"下面的“([^”]+)”", said)

    for user_agent in (COMPUTER, TELEPHONE, f"{TELEPHONE} AlipayClient/10.5"):
        assert named in {one.label for one in wallet_choices(user_agent, has_openid=False)}


def test_every_scene_has_a_name_a_citizen_reads() -> None:
    assert set(ATTEMPT_NAMES) == set(Scene)


def test_shares_of_several_bills_add_up_per_payee() -> None:
    splits: list[Any] = [
        Values(payee_name="国库", amount_fen=5),
        Values(payee_name="非税专户", amount_fen=0),
        Values(payee_name="国库", amount_fen=7),
    ]

    assert [(one.name, one.amount_fen) for one in payee_sums(splits)] == [("国库", 12)]


def test_a_code_has_a_text_alternative_and_a_quiet_zone() -> None:
    svg = str(qr_svg("weixin://wxpay/bizpayurl?pr=9xFPmlUzz", '微信"付款码'))

    assert 'aria-label="微信&#34;付款码"' in svg
    assert "style=" not in svg
    assert 'd="M4 4h1v1h-1z' in svg  # the first module stands after four white ones


def test_a_text_too_long_to_scan_is_refused() -> None:
    with pytest.raises(ValueError, match="1,000"):
        qr_svg("x" * 1001, "付款码")
