"""Notices of WeChat Pay: what they hold, when they come again, how they can be spoilt."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.merchant import NoticeDesk, WechatMerchant
from tests.sandbox.running import RunningSandbox, eventually, running_sandbox

NUMBER = "20260301ABCDEFGHJKMNPQRS"
GAPS = [15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600]


async def test_a_payment_is_told_once_when_it_is_accepted(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    code = await wechat.prepay(NUMBER, notify_url=desk.url, attach="附言")

    paid = await wechat.sandbox.pay(code, wait_for_notice=True)

    [(headers, body)] = desk.got
    notice = json.loads(body)
    assert wechat.believes(headers, body)
    assert headers["wechatpay-signature-type"] == "WECHATPAY2-SHA256-RSA2048"
    assert notice["event_type"] == "TRANSACTION.SUCCESS"
    assert notice["resource_type"] == "encrypt-resource"
    assert notice["resource"]["original_type"] == "transaction"
    told = wechat.opened(notice["resource"])
    assert told == (await wechat.query(NUMBER)).json
    assert told["transaction_id"] == paid["trade_no"]
    [stored] = await wechat.sandbox.notices(NUMBER)
    assert (stored["state"], stored["tries"], stored["next_due_at"]) == ("delivered", 1, None)


async def test_an_unaccepted_notice_comes_again_fifteen_times_on_schedule(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    desk.answers = [(500, b'{"code":"FAIL","message":"later"}')]
    await wechat.sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url))
    await wechat.sandbox.deliveries(NUMBER, at_least=1)

    for count, gap in enumerate(GAPS, start=1):
        await wechat.sandbox.advance(gap - 5)
        assert len(desk.got) == count
        await wechat.sandbox.advance(5)
        await wechat.sandbox.deliveries(NUMBER, at_least=count + 1)

    async def given_up() -> bool | None:
        [stored] = await wechat.sandbox.notices(NUMBER)
        return True if stored["state"] == "given_up" else None

    await eventually(given_up)
    assert len(desk.got) == 16
    assert all(wechat.believes(headers, body) for headers, body in desk.got)
    timestamps = [int(headers["wechatpay-timestamp"]) for headers, _ in desk.got]
    assert all(abs(stamp - time.time()) < 60 for stamp in timestamps)
    nonces = {headers["wechatpay-nonce"] for headers, _ in desk.got}
    assert len(nonces) == 16


@pytest.mark.parametrize(
    ("status", "text", "accepted"),
    [(200, b"", True), (204, b"", True), (200, b'{"code":"FAIL"}', True), (201, b"", False)],
)
async def test_only_200_and_204_are_success(
    wechat: WechatMerchant, desk: NoticeDesk, status: int, text: bytes, accepted: bool
) -> None:
    desk.answers = [(status, text)]

    await wechat.sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)

    [stored] = await wechat.sandbox.notices(NUMBER)
    assert stored["state"] == ("delivered" if accepted else "waiting")


async def test_a_merchant_that_cannot_be_reached_is_tried_again(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    code = await wechat.prepay(NUMBER, notify_url="http://127.0.0.1:9/nobody")

    await wechat.sandbox.pay(code, wait_for_notice=True)

    [delivery] = await wechat.sandbox.deliveries(NUMBER, at_least=1)
    assert (delivery["outcome"], delivery["status"]) == ("unreachable", None)


@pytest.mark.parametrize(
    "kind",
    ["signtest", "missing_signature", "stale", "future", "unknown_serial", "other_key", "tampered"],
)
async def test_a_spoilt_notice_is_not_believable_and_the_next_one_is(
    wechat: WechatMerchant, desk: NoticeDesk, kind: str
) -> None:
    desk.answers = [(401, b""), (204, b"")]
    await wechat.sandbox.fault(kind)

    await wechat.sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url))
    await wechat.sandbox.deliveries(NUMBER, at_least=1)
    await wechat.sandbox.advance(15)
    deliveries = await wechat.sandbox.deliveries(NUMBER, at_least=2)

    assert [wechat.believes(headers, body) for headers, body in desk.got] == [False, True]
    assert [delivery["fault"] for delivery in deliveries] == [kind, ""]


async def test_stale_and_future_notices_are_rightly_signed_for_their_own_time(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await wechat.sandbox.fault("stale")
    await wechat.sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)

    headers, _ = desk.got[0]
    assert 395 <= time.time() - int(headers["wechatpay-timestamp"]) <= 430


async def test_a_notice_can_lie_about_the_amount_under_a_right_signature(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await wechat.sandbox.fault("alter", fields={"amount": {"total": 1}})

    await wechat.sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)

    [(headers, body)] = desk.got
    assert wechat.believes(headers, body)
    told = wechat.opened(json.loads(body)["resource"])
    assert (told["amount"]["total"], told["amount"]["currency"]) == (1, "CNY")


async def test_duplicates_come_in_parallel(wechat: WechatMerchant, desk: NoticeDesk) -> None:
    await wechat.sandbox.fault("duplicate", copies=9)

    await wechat.sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)

    assert len(desk.got) == 10
    assert len({json.loads(body)["id"] for _, body in desk.got}) == 1


async def test_a_held_delivery_is_lost_and_the_schedule_goes_on(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await wechat.sandbox.fault("hold", count=2)
    await wechat.sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url))

    await wechat.sandbox.deliveries(NUMBER, at_least=1)
    await wechat.sandbox.advance(30)
    deliveries = await wechat.sandbox.deliveries(NUMBER, at_least=3)

    assert [delivery["outcome"] for delivery in deliveries] == ["held", "held", "accepted"]
    assert len(desk.got) == 1


async def test_the_notice_can_overtake_the_prepay_answer(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await wechat.sandbox.fault("paid_before_answer", target="prepay")

    await wechat.prepay(NUMBER, notify_url=desk.url)

    assert len(desk.got) == 1


async def test_news_of_an_order_that_never_was_can_be_sent(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    sent = await wechat.sandbox.control(
        "notices",
        channel="wechat_pay",
        event="TRANSACTION.SUCCESS",
        url=desk.url,
        out_trade_no="UNKNOWN",
        plaintext={"out_trade_no": "UNKNOWN", "trade_state": "SUCCESS"},
    )
    await wechat.sandbox.deliveries("UNKNOWN", at_least=1)
    again = await wechat.sandbox.control(f"notices/{sent['id']}/send", copies=3)

    assert again["outcomes"] == ["accepted"] * 3
    assert len(desk.got) == 4
    assert wechat.believes(*desk.got[0])


async def test_a_finished_refund_is_told(wechat: WechatMerchant, desk: NoticeDesk) -> None:
    await wechat.sandbox.pay(await wechat.prepay(NUMBER))
    await wechat.refund("R1", NUMBER, 100, notify_url=desk.url)

    await wechat.sandbox.advance(6)

    async def told() -> Any:
        return desk.got[0] if desk.got else None

    headers, body = await eventually(told)
    notice = json.loads(body)
    assert wechat.believes(headers, body)
    assert notice["event_type"] == "REFUND.SUCCESS"
    plain = wechat.opened(notice["resource"])
    assert plain["refund_status"] == "SUCCESS"
    assert plain["amount"] == {
        "total": 817524,
        "refund": 100,
        "payer_total": 817524,
        "payer_refund": 100,
    }


async def test_certificate_and_mixed_modes_sign_with_the_other_key(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await wechat.sandbox.control("modes", wechat_pay_keys="mixed")
    for index in range(12):
        code = await wechat.prepay(f"{NUMBER}{index}", notify_url=desk.url)
        await wechat.sandbox.pay(code, wait_for_notice=True)

    serials = {headers["wechatpay-serial"] for headers, _ in desk.got}
    assert serials <= {
        wechat.account["public_key_id"],
        wechat.account["platform_certificate_serial"],
    }
    assert all(wechat.believes(headers, body) for headers, body in desk.got)


async def test_a_restart_forgets_no_notice_and_no_order(tmp_path: Path, desk: NoticeDesk) -> None:
    desk.answers = [(500, b""), (204, b"")]
    async with running_sandbox(tmp_path) as first:
        merchant = WechatMerchant(first)
        await first.pay(await merchant.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)
        await first.advance(15 * 60)
        secret = first.credentials["wechat"]["secret"]

    async with running_sandbox(tmp_path) as second:
        merchant = WechatMerchant(second)
        await second.deliveries(NUMBER, at_least=2)

        assert (await merchant.query(NUMBER)).json["trade_state"] == "SUCCESS"
        assert (await second.look("clock"))["offset_seconds"] == 900
        assert second.credentials["wechat"]["secret"] == secret


async def test_an_unknown_fault_is_refused(sandbox: RunningSandbox) -> None:
    async with sandbox.http.post(
        f"{sandbox.base_url}/control/faults", json={"kind": "earthquake"}
    ) as answer:
        assert answer.status == 400
    assert (await sandbox.look("faults"))["faults"] == []


async def test_a_delayed_notice_comes_hours_later_and_then_keeps_its_schedule(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    desk.answers = [(500, b""), (204, b"")]
    await wechat.sandbox.fault("delay", seconds=25 * 3600)
    await wechat.sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)

    await wechat.sandbox.advance(25 * 3600 - 60)
    too_early = len(desk.got)
    await wechat.sandbox.advance(60)
    await wechat.sandbox.deliveries(NUMBER, at_least=2)
    await wechat.sandbox.advance(15)
    deliveries = await wechat.sandbox.deliveries(NUMBER, at_least=3)

    assert too_early == 0
    assert [one["outcome"] for one in deliveries] == ["put_off", "refused", "accepted"]
    assert [one["try_no"] for one in deliveries] == [1, 1, 2]
    assert all(wechat.believes(headers, body) for headers, body in desk.got)


async def test_a_notice_held_back_goes_out_after_the_next_one(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    first = await wechat.prepay(f"{NUMBER}1", notify_url=desk.url)
    second = await wechat.prepay(f"{NUMBER}2", notify_url=desk.url)
    await wechat.sandbox.fault("reorder")
    await wechat.sandbox.pay(first, wait_for_notice=True)
    nothing_yet = len(desk.got)

    await wechat.sandbox.pay(second, wait_for_notice=True)
    await wechat.sandbox.deliveries(f"{NUMBER}1", at_least=2)

    told = [wechat.opened(json.loads(body)["resource"])["out_trade_no"] for _, body in desk.got]
    assert nothing_yet == 0
    assert told == [f"{NUMBER}2", f"{NUMBER}1"]


async def test_a_notice_held_back_for_ever_still_comes_within_25_hours(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await wechat.sandbox.fault("reorder")
    await wechat.sandbox.pay(await wechat.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True)

    await wechat.sandbox.advance(25 * 3600 + 1)
    await wechat.sandbox.deliveries(NUMBER, at_least=2)

    assert len(desk.got) == 1


async def test_a_trouble_can_be_meant_for_one_order_s_notice(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await wechat.sandbox.fault("hold", only=f"{NUMBER}2")

    for index in (1, 2):
        code = await wechat.prepay(f"{NUMBER}{index}", notify_url=desk.url)
        await wechat.sandbox.pay(code, wait_for_notice=True)

    [kept] = desk.got
    assert wechat.opened(json.loads(kept[1])["resource"])["out_trade_no"] == f"{NUMBER}1"


async def test_a_fault_whose_seconds_are_no_number_is_refused(sandbox: RunningSandbox) -> None:
    async with sandbox.http.post(
        f"{sandbox.base_url}/control/faults", json={"kind": "delay", "seconds": "soon"}
    ) as answer:
        assert answer.status == 400
    assert (await sandbox.look("faults"))["faults"] == []
