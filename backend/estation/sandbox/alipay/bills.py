"""The day's trade bill as Alipay packs it: a ZIP with GBK names holding two GBK texts."""

import struct
import zlib
from collections.abc import Sequence
from datetime import date, timedelta

from estation.sandbox import billing, world
from estation.sandbox.clocks import plain
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row
from estation.shared.money import yuan_from_fen

COLUMNS = (
    "支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,"
    "对方账户,订单金额（元）,商家实收（元）,支付宝红包（元）,集分宝（元）,支付宝优惠（元）,"
    "商家优惠（元）,券核销金额（元）,券名称,商家红包消费金额（元）,卡消费金额（元）,"
    "退款批次号/请求号,服务费（元）,分润（元）,备注"
)
SUMMARY_COLUMNS = (
    "门店编号,门店名称,交易订单总笔数,退款订单总笔数,订单金额（元）,商家实收（元）,支付宝优惠（元）,"
    "商家优惠（元）,卡消费金额（元）,服务费（元）,分润（元）,实收净额（元）"
)
_ACCOUNT = f"{world.ALIPAY_SELLER_ID}0156"
_RULE = "-" * 41


def trade_bill(hub: Hub, day: date) -> bytes | None:
    """The ZIP, or None when there was no trade that day."""
    start, end = billing.bounds_ms(day)
    paid = hub.store.rows(
        "select * from ali_trade where paid_at >= ? and paid_at < ? order by paid_at", start, end
    )
    refunded = hub.store.rows(
        "select t.*, r.out_request_no, r.amount_fen as refund_fen,"
        " max(r.created_at, r.due_at) as refund_at"
        " from ali_refund r join ali_trade t using (trade_no)"
        " where r.state = 'REFUND_SUCCESS' and refund_at >= ? and refund_at < ?"
        " order by refund_at",
        start,
        end,
    )
    if not paid and not refunded:
        return None
    made = hub.clocks.now()
    exported = f"#导出时间：[{plain(int(made.timestamp() * 1000))}]"
    name = f"{_ACCOUNT}_{day:%Y%m%d}_业务明细"
    return _zip(
        {
            # The real order is not fixed either; the summary first catches who takes [0].
            f"{name}(汇总).csv": _summary(day, paid, refunded, exported),
            f"{name}.csv": _detail(day, paid, refunded, exported),
        }
    )


def _head(title: str, day: date) -> list[str]:
    first = f"{day:%Y年%m月%d日} 00:00:00"
    last = f"{day + timedelta(days=1):%Y年%m月%d日} 00:00:00"
    return [
        f"#支付宝{title}查询",
        f"#账号：[{_ACCOUNT}]",
        f"#起始日期：[{first}]   终止日期：[{last}]",
    ]


def _detail(day: date, paid: Sequence[Row], refunded: Sequence[Row], exported: str) -> str:
    income = sum(row["amount_fen"] for row in paid)
    returned = sum(row["refund_fen"] for row in refunded)
    lines = [
        *_head("业务明细", day),
        f"#{_RULE}业务明细列表{_RULE}",
        COLUMNS,
        *(_paid_line(row) for row in paid),
        *(_refund_line(row) for row in refunded),
        f"#{_RULE}业务明细列表结束{_RULE}",
        f"#交易合计：{len(paid)}笔，商家实收共{yuan_from_fen(income)}元，商家优惠共0.00元",
        f"#退款合计：{len(refunded)}笔，商家实收退款共{yuan_from_fen(-returned)}元，"
        "商家优惠退款共0.00元",
        exported,
    ]
    return "\r\n".join(lines) + "\r\n"


def _paid_line(row: Row) -> str:
    return _line(
        row,
        kind="交易",
        times=(plain(row["created_at"]), plain(row["paid_at"])),
        amount=row["amount_fen"],
        number="",
        fee=-world.fee_fen(row["amount_fen"]),
    )


def _refund_line(row: Row) -> str:
    moment = plain(row["refund_at"])
    return _line(
        row,
        kind="退款",
        times=(moment, moment),
        amount=-row["refund_fen"],
        number=row["out_request_no"],
        fee=world.fee_fen(row["refund_fen"]),
    )


def _line(
    row: Row, *, kind: str, times: tuple[str, str], amount: int, number: str, fee: int
) -> str:
    """Text cells are padded by a tab, so that spreadsheets keep long numbers whole."""
    yuan, nothing, empty = yuan_from_fen(amount), "0.00", "\t"
    # A comma inside a cell would shift every cell after it.
    subject = row["subject"].replace(",", "，").replace("\n", " ")
    cells = [
        *(f"{row['trade_no']}\t", f"{row['out_trade_no']}\t", f"{kind}\t", f"{subject}\t"),
        *times,
        *(empty, empty, empty, empty),
        f"{row['buyer_logon_id']}\t",
        *(yuan, yuan),
        *(nothing, nothing, nothing, nothing, nothing),
        *(empty, f"{nothing}\t", nothing),
        *(f"{number}\t", yuan_from_fen(fee), nothing, ""),
    ]
    return ",".join(cells)


def _summary(day: date, paid: Sequence[Row], refunded: Sequence[Row], exported: str) -> str:
    amount = sum(row["amount_fen"] for row in paid) - sum(row["refund_fen"] for row in refunded)
    fee = sum(world.fee_fen(row["refund_fen"]) for row in refunded) - sum(
        world.fee_fen(row["amount_fen"]) for row in paid
    )
    yuan, nothing = yuan_from_fen(amount), "0.00"
    cells = [
        *("合计\t", "\t", str(len(paid)), str(len(refunded)), yuan, yuan),
        *(nothing, nothing, nothing, yuan_from_fen(fee), nothing, yuan_from_fen(amount + fee)),
    ]
    lines = [
        *_head("业务汇总", day),
        f"#{_RULE}业务汇总列表{_RULE}",
        SUMMARY_COLUMNS,
        ",".join(cells),
        f"#{_RULE}业务汇总列表结束{_RULE}",
        exported,
    ]
    return "\r\n".join(lines) + "\r\n"


def _zip(files: dict[str, str]) -> bytes:
    """A ZIP by hand: the standard library insists on marking Chinese names as UTF-8."""
    body, directory = b"", b""
    for name, text in files.items():
        raw_name, content = name.encode("gbk"), text.encode("gb18030")
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(content) + packer.flush()
        # version, flags (0: no UTF-8), deflate, time, date (1980-01-01), crc, sizes, name, extra
        common = struct.pack(
            "<HHHHHIIIHH",
            *(20, 0, 8, 0, 33, zlib.crc32(content)),
            *(len(packed), len(content), len(raw_name), 0),
        )
        directory += (
            b"PK\x01\x02"
            + struct.pack("<H", 20)
            + common
            + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
            + raw_name
        )
        body += b"PK\x03\x04" + common + raw_name + packed
    count = len(files)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end
