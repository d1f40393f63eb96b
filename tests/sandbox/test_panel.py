"""The fault panel: what a person orders there happens, and the page says what became of it."""

import json
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from estation.sandbox import troubles
from estation.sandbox.faults import KINDS
from tests.sandbox.merchant import AlipayMerchant, NoticeDesk, WechatMerchant
from tests.sandbox.running import RunningSandbox

NUMBER = "20260301ABCDEFGHJKMNPQRS"
CHROMIUM = Path("/usr/bin/chromium")
EVERY_FAULT = [
    (trouble, channel) for trouble in troubles.BY_KEY.values() for channel in trouble.faults
]


async def _press(sandbox: RunningSandbox, path: str, **form: str) -> tuple[int, str]:
    async with sandbox.http.post(f"{sandbox.base_url}/panel/{path}", data=form) as answer:
        return answer.status, await answer.text()


async def _panel(sandbox: RunningSandbox, query: str = "") -> str:
    async with sandbox.http.get(f"{sandbox.base_url}/panel{query}") as answer:
        assert answer.status == 200
        return await answer.text()


@pytest.mark.parametrize(("trouble", "channel"), EVERY_FAULT)
def test_every_trouble_is_one_the_channel_has(trouble: troubles.Trouble, channel: str) -> None:
    fault = trouble.faults[channel]

    assert fault.kind in KINDS[fault.target, channel]
    assert trouble.happens.endswith("。")
    assert trouble.expected.endswith("。")


async def test_every_button_orders_what_it_says(sandbox: RunningSandbox) -> None:
    for trouble, channel in EVERY_FAULT:
        status, page = await _press(
            sandbox, "order", trouble=trouble.key, channel=channel, count="2"
        )
        [waiting] = (await sandbox.look("faults"))["faults"]

        assert status == 200
        assert f"已安排“{trouble.title}”" in page
        assert (waiting["target"], waiting["kind"]) == (
            trouble.faults[channel].target,
            trouble.faults[channel].kind,
        )
        assert (waiting["channel"], waiting["remaining"]) == (channel, 2)
        if trouble.choices:
            assert waiting["options"][trouble.option] == trouble.choices[0][0]
        await _press(sandbox, "withdraw", fault=str(waiting["id"]))

    assert (await sandbox.look("faults"))["faults"] == []


async def test_an_ordered_lie_is_told_and_shown(
    sandbox: RunningSandbox, wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await _press(sandbox, "order", trouble="lie_amount", channel="wechat_pay", count="1")
    waiting = await _panel(sandbox)

    await sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)
    page = await _panel(sandbox)

    told = wechat.opened(json.loads(desk.got[0][1])["resource"])
    assert told["amount"]["total"] == 1
    assert "sub_orders" not in told
    assert "谎报金额 <span" in waiting
    assert "没有。现在一切正常。" in page
    assert "故障：谎报" in page
    assert NUMBER in page


async def test_a_trouble_can_be_kept_for_one_kind_of_request(
    sandbox: RunningSandbox, wechat: WechatMerchant
) -> None:
    await wechat.prepay(NUMBER)
    await _press(
        sandbox,
        "order",
        trouble="done_but_500",
        channel="wechat_pay",
        count="1",
        only="op:close",
    )

    queried = await wechat.query(NUMBER)
    closed = await wechat.close(NUMBER)

    assert (queried.status, closed.status) == (200, 500)
    assert (await wechat.query(NUMBER)).json["trade_state"] == "CLOSED"


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("order", {"trouble": "earthquake", "channel": "wechat_pay"}, 400),
        ("order", {"trouble": "gbk", "channel": "wechat_pay"}, 400),
        ("order", {"trouble": "drop", "channel": "wechat_pay", "count": "0"}, 400),
        ("order", {}, 400),
        ("rotate", {"what": "everything", "step": "new"}, 400),
        ("rotate", {"what": "alipay_key", "step": "sideways"}, 400),
        ("orders", {"code": "nothing", "verb": "close"}, 404),
        ("orders", {"code": "nothing", "verb": "burn"}, 400),
    ],
)
async def test_what_nobody_can_press_is_refused_in_words(
    sandbox: RunningSandbox, path: str, form: dict[str, str], status: int
) -> None:
    answered, page = await _press(sandbox, path, **form)

    assert answered == status
    assert "没有照办" in page
    assert (await sandbox.look("faults"))["faults"] == []


async def test_an_address_puts_no_words_on_the_page(sandbox: RunningSandbox) -> None:
    page = await _panel(sandbox, "?done=ordered&of=<script>&said=hello")

    assert "<script>" not in page
    assert "hello" not in page


async def test_orders_are_scanned_held_closed_and_finished_from_the_panel(
    sandbox: RunningSandbox, wechat: WechatMerchant, alipay: AlipayMerchant
) -> None:
    await wechat.prepay("HELD0001")
    await wechat.prepay("SHUT0001")
    await alipay.precreate("SCANNED1")
    await sandbox.pay(await alipay.precreate("FINISHED1"))

    for code, verb in (
        ("HELD0001", "password"),
        ("SHUT0001", "close"),
        ("SCANNED1", "scan"),
        ("FINISHED1", "finish"),
    ):
        assert (await _press(sandbox, "orders", code=code, verb=verb))[0] == 200
    paid_is_not_closed, _ = await _press(sandbox, "orders", code="FINISHED1", verb="close")

    assert (await wechat.close("HELD0001")).status == 429
    assert (await wechat.query("SHUT0001")).json["trade_state"] == "CLOSED"
    told = await alipay.call("alipay.trade.query", {"out_trade_no": "SCANNED1"})
    assert told["trade_status"] == "WAIT_BUYER_PAY"
    told = await alipay.call("alipay.trade.query", {"out_trade_no": "FINISHED1"})
    assert told["trade_status"] == "TRADE_FINISHED"
    assert paid_is_not_closed == 409


async def test_a_notice_is_sent_again_from_the_panel(
    sandbox: RunningSandbox, wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)
    [notice] = await sandbox.notices(NUMBER)

    await _press(sandbox, f"notices/{notice['id']}/send", copies="1")
    status, page = await _press(sandbox, f"notices/{notice['id']}/send", copies="10")

    assert status == 200
    assert "已再发" in page
    assert len(desk.got) == 12
    [after] = await sandbox.notices(NUMBER)
    assert (after["state"], after["tries"]) == ("delivered", 1)


async def test_keys_are_rotated_and_the_clock_is_moved_from_the_panel(
    sandbox: RunningSandbox,
) -> None:
    await _press(sandbox, "rotate", what="wechat_public_key", step="new")
    during = (await sandbox.look("keys"))["wechat_public_key"]
    await _press(sandbox, "rotate", what="wechat_public_key", step="new_signs")
    switched = (await sandbox.look("keys"))["wechat_public_key"]
    _, page = await _press(sandbox, "rotate", what="wechat_public_key", step="finish")
    await _press(sandbox, "clock", seconds="90000")
    moved = (await sandbox.look("clock"))["offset_seconds"]
    await _press(sandbox, "clock", seconds="reset")

    assert (len(during["alive"]), during["answers"]) == (2, "both")
    assert (switched["answers"], switched["notices"]) == ("new", "new")
    assert during["alive"][1] in page
    assert during["newest"].strip() in page
    assert moved == 90000
    assert (await sandbox.look("clock"))["offset_seconds"] == 0


async def test_a_combined_order_is_one_line_of_the_panel(wechat: WechatMerchant) -> None:
    subs = [
        {
            "mchid": mchid,
            "attach": "x",
            "amount": {"total_amount": fen, "currency": "CNY"},
            "out_trade_no": f"SUB{mchid}",
            "description": "契税",
        }
        for mchid, fen in (("1900000111", 800000), ("1900000112", 8000))
    ]
    await wechat.at("1900000100").call(
        "POST",
        "/v3/combine-transactions/native",
        {
            "combine_appid": "wx8888888888888888",
            "combine_mchid": "1900000100",
            "combine_out_trade_no": NUMBER,
            "sub_orders": subs,
            "notify_url": "http://127.0.0.1:9/nobody",
        },
    )

    page = await _panel(wechat.sandbox)

    assert "等 2 笔（合单）" in page
    assert "8,080.00" in page
    assert "SUB1900000111" not in page


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")
@pytest.mark.parametrize("width", [375, 1280])
async def test_the_panel_fits_the_screen_and_works_without_scripts(
    sandbox: RunningSandbox, wechat: WechatMerchant, desk: NoticeDesk, width: int
) -> None:
    await sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)
    await sandbox.control("rotate", what="wechat_certificate")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = await browser.new_context(
            viewport={"width": width, "height": 812}, java_script_enabled=False
        )
        page = await context.new_page()
        await page.goto(f"{sandbox.base_url}/")
        await page.click("text=故障面板")
        for summary in await page.locator("details > summary").all():
            await summary.click()
        widest = await page.evaluate("document.documentElement.scrollWidth")
        await page.click("button[aria-label='用于微信：丢掉通知']")
        said = await page.inner_text("[role=status]")
        await browser.close()

    assert widest <= width
    assert "丢掉通知" in said
    [waiting] = (await sandbox.look("faults"))["faults"]
    assert (waiting["kind"], waiting["channel"]) == ("hold", "wechat_pay")
