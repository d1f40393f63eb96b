"""Reading Alipay's trade bill, and proving it against its own footer."""

import io
import zipfile
from datetime import datetime

import pytest

from estation.outside.pay_channels import ParsedBill
from estation.outside.pay_channels.alipay.bills import parse_trade_bill
from estation.shared.clock import BEIJING

HEADER = (
    "支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,对方账户,"
    "订单金额（元）,商家实收（元）,支付宝红包（元）,集分宝（元）,支付宝优惠（元）,商家优惠（元）,券核销金额（元）,"
    "券名称,商家红包消费金额（元）,卡消费金额（元）,退款批次号/请求号,服务费（元）,分润（元）,备注"
)
PAYMENT = (
    "2026022822001400010500000001\t,20260228ABC\t,交易\t,契税\t,2026-02-28 00:00:03,"
    "2026-02-28 23:59:59,\t,\t,\t,\t,lin***@example.com\t,8175.24,8170.24,0.00,0.00,0.00,5.00,"
    "0.00,\t,0.00\t,0.00,\t,-49.05,0.00,"
)
REFUND = (
    "2026022722001400010500000009\t,20260227ABC\t,退款\t,契税\t,2026-02-28 10:00:00,"
    "2026-02-28 10:00:01,\t,\t,\t,\t,lin***@example.com\t,-30.00,-30.00,0.00,0.00,0.00,0.00,"
    "0.00,\t,0.00\t,0.00,RF1\t,0.18,0.00,"
)
START = [
    "#支付宝业务明细查询",
    "#账号：[20880000000001090156]",
    "#起始日期：[2026年02月28日 00:00:00]   终止日期：[2026年03月01日 00:00:00]",
    "#----------业务明细列表----------,,,,",
]
END = [
    "#----------业务明细列表结束----------",
    "#交易合计：1笔，商家实收共8170.24元，商家优惠共5.00元",
    "#退款合计：1笔，商家实收退款共-30.00元，商家优惠退款共0.00元",
    "#导出时间：[2026年03月01日 09:30:00]",
]
GOOD = [*START, HEADER, PAYMENT, REFUND, *END]
DETAIL = "20880000000001090156_20260228_业务明细.csv"


def packed(lines: list[str], *, name: str = DETAIL, summary: bytes = b"x") -> bytes:
    """A ZIP with the summary first, as Alipay may send it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("20880000000001090156_20260228_业务明细(汇总).csv", summary)
        files.writestr(name, "\r\n".join(lines).encode("gb18030"))
    return archive.getvalue()


def parsed(lines: list[str]) -> ParsedBill:
    return parse_trade_bill(packed(lines))


def test_payments_and_refunds_become_rows_in_our_words() -> None:
    payment, refund = parsed(GOOD).rows

    assert (payment.kind, payment.amount_fen, payment.refund_no) == ("payment", 817524, None)
    assert payment.out_trade_no == "20260228ABC"
    assert payment.channel_trade_no == "2026022822001400010500000001"
    assert payment.at == datetime(2026, 2, 28, 23, 59, 59, tzinfo=BEIJING)
    assert payment.fee_fen_e3 == 4905000
    assert (payment.state, payment.line_no) == ("交易", 6)
    assert (refund.kind, refund.amount_fen, refund.refund_no) == ("refund", 3000, "RF1")
    assert refund.fee_fen_e3 == -18000


def test_the_footer_proves_counts_and_sums() -> None:
    found = parsed(GOOD)

    assert found.is_proven
    assert found.proof["交易合计 商家实收"] == ("8170.24", "8170.24")
    assert found.proof["退款合计 笔数"] == ("1", "1")


@pytest.mark.parametrize(
    ("old", "new"),
    [("1笔，商家实收共", "2笔，商家实收共"), ("8170.24元", "8170.25元"), ("-30.00元", "30.00元")],
)
def test_another_total_proves_nothing(old: str, new: str) -> None:
    assert not parsed([line.replace(old, new) for line in GOOD]).is_proven


def test_a_lost_row_breaks_the_proof() -> None:
    assert not parsed([*START, HEADER, PAYMENT, *END]).is_proven


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no header"),
        (START, "no header"),
        ([*START, HEADER, PAYMENT], "line 6: the bill ends without its 交易合计"),
        ([*START, HEADER, PAYMENT, *END[:2]], "without its 退款合计"),
        ([*START, HEADER, PAYMENT + ",", *END], "line 6: 26 cells"),
        ([*START, HEADER, PAYMENT.replace("交易", "转账"), *END], "line 6: unknown"),
        ([*START, HEADER, PAYMENT.replace("8175.24", "8,175.24"), *END], "line 6"),
        ([*START, HEADER, PAYMENT.replace("8175.24", "NaN"), *END], "line 6"),
        ([*START, HEADER, PAYMENT.replace("-49.05", "x"), *END], "line 6: no fee"),
        ([*START, HEADER, PAYMENT.replace("2026-02-28 23:59:59", "now"), *END], "line 6: no time"),
        ([*START, HEADER.replace("完成时间", "时间"), PAYMENT, *END], "line 6"),
    ],
)
def test_what_is_no_bill_is_refused_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(lines)


SUMMARY = [
    "#支付宝业务汇总查询",
    "门店编号,门店名称,交易订单总笔数,退款订单总笔数,订单金额（元）,商家实收（元）,支付宝优惠（元）,"
    "商家优惠（元）,卡消费金额（元）,服务费（元）,分润（元）,实收净额（元）",
    "0001\t,总店\t,1,1,8145.24,8140.24,0.00,5.00,0.00,-48.87,0.00,1.00",
    "合计\t,\t,1,1,8145.24,8140.24,0.00,5.00,0.00,-48.87,0.00,8091.37",
    "#----------业务汇总列表结束----------",
]


def test_the_net_of_the_summarys_total_line_is_what_will_be_settled() -> None:
    summary = "\r\n".join(SUMMARY).encode("gb18030")

    assert parse_trade_bill(packed(GOOD, summary=summary)).settlement_fen == 809137


@pytest.mark.parametrize(
    "lines",
    [
        [],
        SUMMARY[:3],
        [SUMMARY[1].replace("实收净额（元）", "净额"), SUMMARY[3]],
        [SUMMARY[1], SUMMARY[3] + ",0.00"],
        [SUMMARY[1], SUMMARY[3].replace("8091.37", "x")],
    ],
    ids=["empty", "no total", "no net", "a cell more", "no money"],
)
def test_a_summary_without_a_net_states_no_settlement(lines: list[str]) -> None:
    summary = "\r\n".join(lines).encode("gb18030")

    bill = parse_trade_bill(packed(GOOD, summary=summary))

    assert bill.settlement_fen is None
    assert bill.is_proven


def test_an_archive_without_the_detail_file_is_refused() -> None:
    with pytest.raises(ValueError, match="0 files"):
        parse_trade_bill(packed(GOOD, name="20260228_账务明细.csv"))


@pytest.mark.parametrize("size", [0, 1, 100, 300, -1, -30])
def test_a_cut_archive_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_trade_bill(packed(GOOD)[:size])


def test_a_damaged_archive_is_refused() -> None:
    raw = bytearray(packed(GOOD))
    middle = raw.index(b"x") + 200
    raw[middle] ^= 0xFF

    with pytest.raises(ValueError, match="ZIP"):
        parse_trade_bill(bytes(raw))


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estation.outside.pay_channels.alipay.bills.BILL_BYTES", 100)

    with pytest.raises(ValueError, match="larger than a bill"):
        parsed(GOOD)


def test_bytes_that_are_not_gbk_are_refused() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr(DETAIL, b"\xff\xff\xff")

    with pytest.raises(ValueError, match="GBK"):
        parse_trade_bill(archive.getvalue())
