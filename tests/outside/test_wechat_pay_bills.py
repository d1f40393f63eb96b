"""Reading WeChat Pay's trade bill, and proving it against its own summary."""

import gzip
from datetime import datetime

import pytest

from estation.outside.pay_channels import ParsedBill
from estation.outside.pay_channels.wechat_pay.bills import parse_trade_bill
from estation.shared.clock import BEIJING

COMMON = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,"
    "付款银行,货币种类,应结订单金额,代金券金额"
)
TAIL = "商品名称,商户数据包,手续费,费率,订单金额"
REFUND_COLUMNS = "微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态"
ALL = f"{COMMON},{REFUND_COLUMNS},{TAIL},申请退款金额,费率备注"
SUCCESS = f"{COMMON},{TAIL},费率备注"
SUMMARY = (
    "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
)
PAYMENT = (
    "`2026-02-28 23:59:59,`wx8888888888888888,`1900000109,`0,`,`4200002026022812345678901234,"
    "`20260228ABCDEFGHJKMNPQRS,`oUpF8u,`NATIVE,`SUCCESS,`OTHERS,`CNY,`8175.24,`0.00,"
    "`0,`0,`0.00,`0.00,`,`,`契税,登记费,`,`49.05144,`0.60%,`8175.24,`0.00,`"
)
REFUND = (
    "`2026-02-28 08:00:00,`wx8888888888888888,`1900000109,`0,`,`4200002026022712345678901234,"
    "`20260227ABCDEFGHJKMNPQRS,`oUpF8u,`NATIVE,`REFUND,`OTHERS,`CNY,`0.00,`0.00,"
    "`50000709672026022808420787722,`R20260228-1,`30.00,`0.00,`ORIGINAL,`PROCESSING,`契税,`,"
    "`-0.18000,`0.60%,`0.00,`30.00,`"
)
TOTALS = "`2.0,`8175.24,`30.00,`0.00,`48.87144,`8175.24,`30.00"


def bill(*lines: str, end: str = "\r\n") -> bytes:
    return "\ufeff".encode() + end.join(lines).encode() + end.encode()


def parsed(*lines: str) -> ParsedBill:
    return parse_trade_bill(bill(*lines))


OLD_SUMMARY = "总交易单数,总交易额,总退款金额,总代金券或立减优惠退款金额,手续费总金额"


@pytest.mark.parametrize(
    ("summary", "totals", "settled_fen"),
    [
        (SUMMARY, TOTALS, 809637),  # 8175.24 - 30.00 - 48.87144 = 8096.36856
        (SUMMARY, TOTALS.replace("48.87144", "48.87"), 809637),
        (OLD_SUMMARY, "`2,`8175.24,`30.00,`0.00,`48.87", 809637),
        (SUMMARY.replace("手续费总金额", "别的"), TOTALS, None),
    ],
    ids=["all decimals", "two decimals", "old layout", "no fees"],
)
def test_the_summary_says_what_will_be_settled(
    summary: str, totals: str, settled_fen: int | None
) -> None:
    assert parsed(ALL, PAYMENT, REFUND, summary, totals).settlement_fen == settled_fen


def test_payments_and_refunds_become_rows_in_our_words() -> None:
    found = parsed(ALL, PAYMENT, REFUND, SUMMARY, TOTALS)

    payment, refund = found.rows
    assert (payment.kind, payment.amount_fen, payment.refund_no) == ("payment", 817524, None)
    assert payment.out_trade_no == "20260228ABCDEFGHJKMNPQRS"
    assert payment.channel_trade_no == "4200002026022812345678901234"
    assert payment.at == datetime(2026, 2, 28, 23, 59, 59, tzinfo=BEIJING)
    assert payment.fee_fen_e3 == 4905144
    assert (payment.state, payment.line_no) == ("SUCCESS", 2)
    assert (refund.kind, refund.amount_fen, refund.refund_no) == ("refund", 3000, "R20260228-1")
    assert refund.out_trade_no == "20260227ABCDEFGHJKMNPQRS"
    assert refund.fee_fen_e3 == -18000
    assert (refund.state, refund.line_no) == ("PROCESSING", 3)


def test_the_summary_proves_counts_and_sums() -> None:
    found = parsed(ALL, PAYMENT, REFUND, SUMMARY, TOTALS)

    assert found.is_proven
    assert found.proof["总交易单数"] == ("2.00", "2.00")
    assert found.proof["订单总金额"] == ("8175.24", "8175.24")
    assert len(found.proof) == 7


@pytest.mark.parametrize(
    "totals",
    [
        "`3.0,`8175.24,`30.00,`0.00,`48.87144,`8175.24,`30.00",
        "`2.0,`8175.25,`30.00,`0.00,`48.87144,`8175.24,`30.00",
        "`2.0,`8175.24,`30.00,`0.00,`48.87145,`8175.24,`30.00",
        "`2.0,`8175.24,`30.00,`0.00,`48.87144,`8175.24,`30.01",
        "`2.0,`8175.24,`30.00,`0.0,`48.87144,`8175,`30.00",
    ],
)
def test_another_total_proves_nothing(totals: str) -> None:
    found = parsed(ALL, PAYMENT, REFUND, SUMMARY, totals)

    assert not found.is_proven


def test_a_lost_row_breaks_the_proof() -> None:
    assert not parsed(ALL, PAYMENT, SUMMARY, TOTALS).is_proven


def test_a_rounded_fee_total_is_compared_as_printed() -> None:
    assert parsed(ALL, PAYMENT, REFUND, SUMMARY, TOTALS.replace("48.87144", "48.87")).is_proven


def test_layout_line_ends_and_packing_do_not_matter() -> None:
    row = (
        "`2026-02-28 23:59:59,`wx8,`1900000109,`0,`,`42000020260228,`20260228ABC,`oUpF8u,`NATIVE,"
        "`SUCCESS,`OTHERS,`CNY,`1.00,`0.00,`税,`,`0.01000,`0.60%,`1.00,`"
    )
    lines = [
        SUCCESS,
        row,
        "总交易单数,应结订单总金额,手续费总金额,订单总金额",
        "`1,`1.00,`0.01000,`1.00",
    ]

    for raw in (bill(*lines, end="\n"), gzip.compress(bill(*lines))):
        found = parse_trade_bill(raw)
        assert found.is_proven
        assert found.rows[0].amount_fen == 100


def test_an_empty_day_is_a_bill_too() -> None:
    found = parsed(ALL, SUMMARY, "`0,`0.00,`0.00,`0.00,`0.00000,`0.00,`0.00")

    assert (found.rows, found.is_proven) == ([], True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "line 1"),
        (["<html>"], "line 1"),
        ([ALL, PAYMENT], "line 2: the bill ends"),
        ([ALL, PAYMENT, SUMMARY], "line 3: a summary"),
        ([ALL, PAYMENT, SUMMARY, TOTALS, TOTALS], "line 3: a summary"),
        ([ALL, PAYMENT, SUMMARY, "`1,`2"], "line 4: 2 sums"),
        ([ALL, PAYMENT.replace(",`0.60%", ""), SUMMARY, TOTALS], "line 2: 26 cells"),
        ([ALL, PAYMENT, REFUND.replace("30.00", "3e1"), SUMMARY, TOTALS], "line 3"),
        ([ALL, PAYMENT.replace("2026-02-28 23:59:59", "28.2.2026"), SUMMARY, TOTALS], "line 2"),
        ([ALL, PAYMENT.replace("49.05144", "NaN"), SUMMARY, TOTALS], "line 2"),
        ([ALL, PAYMENT.replace("49.05144", "1.000001"), SUMMARY, TOTALS], "line 2"),
        ([ALL, PAYMENT, SUMMARY, TOTALS.replace("48.87144", "Infinity")], "no number"),
        ([ALL, PAYMENT, SUMMARY.replace("总交易单数", "笔数"), TOTALS], "总交易单数"),
        (
            [SUCCESS.replace("商户订单号", "x"), SUMMARY, TOTALS],
            "line 1: no column 商户订单号",
        ),
    ],
)
def test_what_is_no_bill_is_refused_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(*lines)


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"\x1f\x8b", gzip.compress(b"x" * 99)[:-3]])
def test_bytes_that_are_no_text_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_trade_bill(raw)
