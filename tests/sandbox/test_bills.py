"""Bills of both channels: readiness, short-lived addresses, layout, totals."""

import gzip
import hashlib
import io
import zipfile
from datetime import date, timedelta
from decimal import Decimal

import aiohttp

from tests.sandbox.merchant import AlipayMerchant, Answer, WechatMerchant
from tests.sandbox.running import RunningSandbox

DAY = date(2026, 3, 2)
TRADE_COLUMNS = 27


async def _at(sandbox: RunningSandbox, day: date, clock: str) -> None:
    await sandbox.control("clock", set=f"{day}T{clock}+08:00")


async def _trade_bill(wechat: WechatMerchant, day: date = DAY, query: str = "") -> Answer:
    return await wechat.call("GET", f"/v3/bill/tradebill?bill_date={day}{query}")


async def _file(wechat: WechatMerchant, answer: Answer) -> Answer:
    url: str = answer.json["download_url"]
    return await wechat.call("GET", url.removeprefix(wechat.account["base_url"]))


def _rows(text: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    assert text.startswith("\ufeff")
    assert text.endswith("\r\n")
    lines = text.removeprefix("\ufeff").split("\r\n")[:-1]
    cells = [line.removeprefix("`").split(",`") for line in lines]
    header, summary = lines[0].split(","), lines[-2].split(",")
    rows = [dict(zip(header, row, strict=True)) for row in cells[1:-2]]
    return rows, dict(zip(summary, cells[-1], strict=True))


async def test_a_bill_is_made_the_next_morning(wechat: WechatMerchant) -> None:
    await _at(wechat.sandbox, DAY, "12:00:00")
    await wechat.sandbox.pay(await wechat.prepay("FIRST001"))

    same_day = await _trade_bill(wechat)
    await _at(wechat.sandbox, DAY + timedelta(days=1), "09:59:00")
    too_early = await _trade_bill(wechat)
    await _at(wechat.sandbox, DAY + timedelta(days=1), "10:00:01")
    ready = await _trade_bill(wechat)
    empty_day = await _trade_bill(wechat, DAY - timedelta(days=1))
    long_ago = await _trade_bill(wechat, DAY - timedelta(days=200))
    future = await _trade_bill(wechat, DAY + timedelta(days=9))

    assert (same_day.status, same_day.code) == (400, "STATEMENT_CREATING")
    assert (too_early.status, too_early.code) == (400, "STATEMENT_CREATING")
    assert ready.status == 200
    assert wechat.believes(ready.headers, ready.body)
    assert (empty_day.status, empty_day.code) == (400, "NO_STATEMENT_EXIST")
    assert long_ago.code == "INVALID_REQUEST"
    assert future.code == "PARAM_ERROR"


async def test_control_can_make_todays_bill_ready(wechat: WechatMerchant) -> None:
    await _at(wechat.sandbox, DAY, "12:00:00")
    await wechat.sandbox.pay(await wechat.prepay("FIRST001"))
    before = await _trade_bill(wechat)

    await wechat.sandbox.control("bills", day=str(DAY))

    assert before.status == 400
    assert (await _trade_bill(wechat)).status == 200


async def test_the_trade_bill_adds_up_to_its_summary(wechat: WechatMerchant) -> None:
    await _at(wechat.sandbox, DAY, "12:00:00")
    for number, fen in [("FIRST001", 817524), ("SECOND02", 1), ("THIRD003", 8000)]:
        await wechat.sandbox.pay(await wechat.prepay(number, amount={"total": fen}))
    await wechat.refund("R1", "FIRST001", 100)
    await _at(wechat.sandbox, DAY + timedelta(days=1), "00:00:01")
    await wechat.sandbox.pay(await wechat.prepay("NEXTDAY1"))
    await _at(wechat.sandbox, DAY + timedelta(days=1), "11:00:00")

    offered = await _trade_bill(wechat)
    file = await _file(wechat, offered)

    assert hashlib.sha1(file.body).hexdigest() == offered.json["hash_value"]  # noqa: S324
    assert "wechatpay-signature" not in file.headers
    rows, summary = _rows(file.body.decode())
    assert all(len(row) == TRADE_COLUMNS for row in rows)
    paid = {row["商户订单号"]: row for row in rows if row["交易状态"] == "SUCCESS"}
    assert set(paid) == {"FIRST001", "SECOND02", "THIRD003"}
    assert paid["FIRST001"]["订单金额"] == "8175.24"
    assert paid["FIRST001"]["手续费"] == "49.05000"
    assert paid["FIRST001"]["微信退款单号"] == "0"
    [refund] = [row for row in rows if row["交易状态"] == "REFUND"]
    assert (refund["商户退款单号"], refund["申请退款金额"], refund["订单金额"]) == (
        *("R1", "1.00"),
        "0.00",
    )
    assert refund["退款状态"] == "SUCCESS"
    for total, column in [
        ("应结订单总金额", "应结订单金额"),
        ("退款总金额", "退款金额"),
        ("手续费总金额", "手续费"),
        ("订单总金额", "订单金额"),
        ("申请退款总金额", "申请退款金额"),
    ]:
        assert Decimal(summary[total]) == sum(Decimal(row[column]) for row in rows), total
    assert summary["总交易单数"] == "4.0"


async def test_the_success_and_refund_bills_have_their_own_columns(wechat: WechatMerchant) -> None:
    await _at(wechat.sandbox, DAY, "12:00:00")
    await wechat.sandbox.pay(await wechat.prepay("FIRST001"))
    await wechat.refund("R1", "FIRST001", 100)
    await _at(wechat.sandbox, DAY + timedelta(days=1), "11:00:00")

    counts = {}
    for kind in ("SUCCESS", "REFUND"):
        file = await _file(wechat, await _trade_bill(wechat, query=f"&bill_type={kind}"))
        rows, _ = _rows(file.body.decode())
        counts[kind] = [len(row) for row in rows]

    assert counts == {"SUCCESS": [20], "REFUND": [29]}


async def test_a_gzip_bill_has_the_hash_of_its_plain_text(wechat: WechatMerchant) -> None:
    await _at(wechat.sandbox, DAY, "12:00:00")
    await wechat.sandbox.pay(await wechat.prepay("FIRST001"))
    await _at(wechat.sandbox, DAY + timedelta(days=1), "11:00:00")

    offered = await _trade_bill(wechat, query="&bill_type=ALL&tar_type=GZIP")
    file = await _file(wechat, offered)

    assert file.body[:2] == b"\x1f\x8b"
    plain = gzip.decompress(file.body)
    assert hashlib.sha1(plain).hexdigest() == offered.json["hash_value"]  # noqa: S324


async def test_a_bill_address_lives_five_minutes_and_needs_our_signature(
    wechat: WechatMerchant,
) -> None:
    await _at(wechat.sandbox, DAY, "12:00:00")
    await wechat.sandbox.pay(await wechat.prepay("FIRST001"))
    await _at(wechat.sandbox, DAY + timedelta(days=1), "11:00:00")
    offered = await _trade_bill(wechat)

    async with aiohttp.ClientSession() as nobody:
        unsigned = await nobody.get(offered.json["download_url"])
    in_time = await _file(wechat, offered)
    await wechat.sandbox.advance(301)
    too_late = await _file(wechat, offered)

    assert unsigned.status == 401
    assert in_time.status == 200
    assert too_late.status == 400


async def test_the_fund_bill_s_running_balance_is_complete(wechat: WechatMerchant) -> None:
    await _at(wechat.sandbox, DAY - timedelta(days=1), "12:00:00")
    await wechat.sandbox.pay(await wechat.prepay("DAYBEFOR", amount={"total": 10000}))
    await _at(wechat.sandbox, DAY, "12:00:00")
    await wechat.sandbox.pay(await wechat.prepay("FIRST001"))
    await wechat.sandbox.advance(60)
    await wechat.refund("R1", "FIRST001", 100)
    await _at(wechat.sandbox, DAY + timedelta(days=1), "11:00:00")

    offered = await wechat.call("GET", f"/v3/bill/fundflowbill?bill_date={DAY}")
    rows, summary = _rows((await _file(wechat, offered)).body.decode())

    balance = Decimal("99.40")
    for row in rows:
        amount = Decimal(row["收支金额(元)"])
        balance += amount if row["收支类型"] == "收入" else -amount
        assert Decimal(row["账户结余(元)"]) == balance
    assert [row["业务类型"] for row in rows] == ["交易", "扣除交易手续费", "退款"]
    assert summary == {
        "资金流水总笔数": "3.0",
        "收入笔数": "1.0",
        "收入金额": "8175.24",
        "支出笔数": "2.0",
        "支出金额": "50.04",
    }
    none = await wechat.call("GET", f"/v3/bill/fundflowbill?bill_date={DAY}&account_type=FEES")
    assert none.code == "NO_STATEMENT_EXIST"


async def _alipay_bill(alipay: AlipayMerchant) -> dict[str, str]:
    return await alipay.call(
        "alipay.data.dataservice.bill.downloadurl.query",
        {"bill_type": "trade", "bill_date": str(DAY)},
    )


async def test_the_alipay_bill_is_a_zip_in_gbk_that_adds_up(alipay: AlipayMerchant) -> None:
    await _at(alipay.sandbox, DAY, "12:00:00")
    await alipay.sandbox.pay(await alipay.precreate("FIRST001", subject="契税,和登记费"))
    await alipay.sandbox.pay(await alipay.precreate("SECOND02", total_amount="0.01"))
    await alipay.call(
        "alipay.trade.refund",
        {"out_trade_no": "FIRST001", "refund_amount": "1.00", "out_request_no": "R1"},
    )
    early = await _alipay_bill(alipay)
    await _at(alipay.sandbox, DAY + timedelta(days=1), "10:00:01")

    url = (await _alipay_bill(alipay))["bill_download_url"]
    async with alipay.sandbox.http.get(url) as answer:
        packed = await answer.read()

    assert (early["code"], early["sub_code"]) == ("40004", "isp.bill_not_exist")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        assert all(not entry.flag_bits & 0x800 for entry in archive.infolist())
        files = {
            entry.filename.encode("cp437").decode("gbk"): archive.read(entry).decode("gb18030")
            for entry in archive.infolist()
        }
    account = "20880000000001090156"
    detail = files[f"{account}_20260302_业务明细.csv"].split("\r\n")
    assert f"{account}_20260302_业务明细(汇总).csv" in files
    start = next(n for n, line in enumerate(detail) if line.startswith("支付宝交易号"))
    rows = [
        [cell.strip() for cell in line.split(",")]
        for line in detail[start + 1 :]
        if line and not line.startswith("#")
    ]
    assert all(len(row) == 25 for row in rows)
    assert [(row[1], row[2], row[11], row[21]) for row in rows] == [
        ("FIRST001", "交易", "8175.24", ""),
        ("SECOND02", "交易", "0.01", ""),
        ("FIRST001", "退款", "-1.00", "R1"),
    ]
    assert "#交易合计：2笔，商家实收共8175.25元，商家优惠共0.00元" in detail
    assert "#退款合计：1笔，商家实收退款共-1.00元，商家优惠退款共0.00元" in detail


async def test_the_alipay_bill_address_lives_thirty_seconds(alipay: AlipayMerchant) -> None:
    await _at(alipay.sandbox, DAY, "12:00:00")
    await alipay.sandbox.pay(await alipay.precreate("FIRST001"))
    await _at(alipay.sandbox, DAY + timedelta(days=1), "11:00:00")
    url = (await _alipay_bill(alipay))["bill_download_url"]

    await alipay.sandbox.advance(31)

    async with alipay.sandbox.http.get(url) as answer:
        assert answer.status == 404
