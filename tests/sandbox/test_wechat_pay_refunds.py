"""Refunds at WeChat Pay: their rules, their ends, and the way out of ABNORMAL."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.sandbox.merchant import NoticeDesk, WechatMerchant
from tests.sandbox.running import eventually

NUMBER = "20260301ABCDEFGHJKMNPQRS"
REFUNDS = "/v3/refund/domestic/refunds"


async def _paid(wechat: WechatMerchant) -> None:
    await wechat.sandbox.pay(await wechat.prepay(NUMBER))


async def _state(wechat: WechatMerchant, number: str = "R1") -> dict[str, Any]:
    told: dict[str, Any] = (await wechat.call("GET", f"{REFUNDS}/{number}")).json
    return told


def _sealed(public_pem: str, text: str) -> str:
    key = serialization.load_pem_public_key(public_pem.encode())
    assert isinstance(key, rsa.RSAPublicKey)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 -- theirs
    return base64.b64encode(key.encrypt(text.encode(), oaep)).decode()


@pytest.mark.parametrize(("kind", "end"), [("abnormal", "ABNORMAL"), ("closed", "CLOSED")])
async def test_a_refund_that_fails_is_told_as_such(
    wechat: WechatMerchant, desk: NoticeDesk, kind: str, end: str
) -> None:
    await _paid(wechat)
    await wechat.sandbox.fault(kind, target="refund")
    await wechat.refund("R1", NUMBER, 100, notify_url=desk.url)

    await wechat.sandbox.advance(6)

    async def told() -> Any:
        return desk.got[0] if desk.got else None

    headers, body = await eventually(told)
    assert wechat.believes(headers, body)
    assert json.loads(body)["event_type"] == f"REFUND.{end}"
    plain = wechat.opened(json.loads(body)["resource"])
    assert plain["refund_status"] == end
    assert "success_time" not in plain
    assert (await _state(wechat))["status"] == end


async def test_what_a_closed_refund_did_not_pay_back_can_be_refunded(
    wechat: WechatMerchant,
) -> None:
    await _paid(wechat)
    await wechat.sandbox.fault("closed", target="refund")
    await wechat.refund("R1", NUMBER, 817524)
    await wechat.sandbox.advance(6)
    assert (await _state(wechat))["status"] == "CLOSED"

    same = await wechat.refund("R1", NUMBER, 817524)
    other = await wechat.refund("R2", NUMBER, 817524)

    assert same.json["status"] == "CLOSED"
    assert other.json["status"] == "PROCESSING"


async def test_an_abnormal_refund_is_sent_to_another_card(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await _paid(wechat)
    await wechat.sandbox.fault("abnormal", target="refund")
    accepted = (await wechat.refund("R1", NUMBER, 100, notify_url=desk.url)).json
    target = f"{REFUNDS}/{accepted['refund_id']}/apply-abnormal-refund"
    card = {
        "out_refund_no": "R1",
        "type": "USER_BANK_CARD",
        "bank_type": "ICBC_DEBIT",
        "bank_account": _sealed(wechat.account["public_key"], "6222020000000000000"),
        "real_name": _sealed(wechat.account["public_key"], "林晓舟"),
    }

    too_soon = await wechat.call("POST", target, card)
    await wechat.sandbox.advance(6)
    unsealed = await wechat.call("POST", target, card | {"bank_account": "6222020000000000000"})
    without_name = await wechat.call("POST", target, card | {"real_name": None})
    wrong_id = await wechat.call("POST", target.replace(accepted["refund_id"], "5030"), card)
    again = await wechat.call("POST", target, card)
    await wechat.sandbox.advance(6)

    assert (too_soon.status, too_soon.code) == (400, "INVALID_REQUEST")
    assert (unsealed.status, unsealed.code) == (400, "PARAM_ERROR")
    assert without_name.code == "PARAM_ERROR"
    assert wrong_id.code == "RESOURCE_NOT_EXISTS"
    assert (again.status, again.json["status"]) == (200, "PROCESSING")
    done = await _state(wechat)
    assert (done["status"], done["channel"]) == ("SUCCESS", "OTHER_BANKCARD")
    await wechat.sandbox.deliveries(NUMBER, at_least=2)
    events = [json.loads(body)["event_type"] for _, body in desk.got]
    assert events == ["REFUND.ABNORMAL", "REFUND.SUCCESS"]


async def test_card_fields_sealed_for_an_unknown_key_are_refused(wechat: WechatMerchant) -> None:
    await _paid(wechat)
    await wechat.sandbox.fault("abnormal", target="refund")
    accepted = (await wechat.refund("R1", NUMBER, 100)).json
    await wechat.sandbox.advance(6)
    wechat.headers = {"Wechatpay-Serial": "PUB_KEY_ID_0000"}

    refused = await wechat.call(
        "POST",
        f"{REFUNDS}/{accepted['refund_id']}/apply-abnormal-refund",
        {
            "out_refund_no": "R1",
            "type": "USER_BANK_CARD",
            "bank_type": "ICBC_DEBIT",
            "bank_account": _sealed(wechat.account["public_key"], "1"),
            "real_name": _sealed(wechat.account["public_key"], "林"),
        },
    )

    assert (refused.status, refused.code) == (400, "PARAM_ERROR")
    assert (await _state(wechat))["status"] == "ABNORMAL"


async def test_a_merchant_without_money_is_refused_and_may_try_the_same_number_again(
    wechat: WechatMerchant,
) -> None:
    await _paid(wechat)
    await wechat.sandbox.fault("not_enough", target="refund")

    refused = await wechat.refund("R1", NUMBER, 100)
    nothing = await wechat.call("GET", f"{REFUNDS}/R1")
    untouched = (await wechat.query(NUMBER)).json["trade_state"]
    accepted = await wechat.refund("R1", NUMBER, 100)

    assert (refused.status, refused.code) == (403, "NOT_ENOUGH")
    assert nothing.code == "RESOURCE_NOT_EXISTS"
    assert untouched == "SUCCESS"
    assert accepted.json["status"] == "PROCESSING"


async def test_a_slow_refund_stays_processing(wechat: WechatMerchant) -> None:
    await _paid(wechat)
    await wechat.sandbox.fault("slow", target="refund", seconds=7200)
    await wechat.refund("R1", NUMBER, 100)

    await wechat.sandbox.advance(7100)
    before = (await _state(wechat))["status"]
    await wechat.sandbox.advance(101)

    assert (before, (await _state(wechat))["status"]) == ("PROCESSING", "SUCCESS")


async def test_fifty_partial_refunds_a_minute_apart_and_no_more(wechat: WechatMerchant) -> None:
    await _paid(wechat)

    for index in range(50):
        assert (await wechat.refund(f"R{index}", NUMBER, 1)).status == 200
        await wechat.sandbox.advance(61)
    one_too_many = await wechat.refund("R50", NUMBER, 1)

    assert (one_too_many.status, one_too_many.code) == (400, "INVALID_REQUEST")


async def test_nothing_is_refunded_after_a_year(wechat: WechatMerchant) -> None:
    await _paid(wechat)

    await wechat.sandbox.advance(365 * 86400 + 60)
    late = await wechat.refund("R1", NUMBER, 1)

    assert (late.status, late.code) == (400, "INVALID_REQUEST")
    assert (await wechat.query(NUMBER)).json["trade_state"] == "SUCCESS"


async def test_a_partial_refund_leaves_a_paid_order_in_the_state_refund(
    wechat: WechatMerchant,
) -> None:
    await _paid(wechat)

    await wechat.refund("R1", NUMBER, 1, funds_account="AVAILABLE")

    told = (await wechat.query(NUMBER)).json
    assert (told["trade_state"], told["amount"]["total"]) == ("REFUND", 817524)
    assert told["transaction_id"]
    assert (await _state(wechat))["funds_account"] == "AVAILABLE"
