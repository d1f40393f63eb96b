"""Keys are renewed: both generations live for a while, answers and notices switch separately."""

import base64
import json
from typing import Any

import pytest

from estation.sandbox.credentials import export_secrets, write_credentials
from tests.sandbox.merchant import AlipayMerchant, NoticeDesk, WechatMerchant, is_signed
from tests.sandbox.running import RunningSandbox

NUMBER = "20260301ABCDEFGHJKMNPQRS"
DOWNLOAD = "alipay.open.app.alipaycert.download"


def _now(sandbox: RunningSandbox) -> dict[str, Any]:
    """The credentials as they are after the rotation."""
    return write_credentials(sandbox.data, sandbox.base_url)


async def _notice_serials(wechat: WechatMerchant, desk: NoticeDesk, count: int) -> list[str]:
    for index in range(count):
        code = await wechat.prepay(f"{NUMBER}{len(desk.got)}{index}", notify_url=desk.url)
        await wechat.sandbox.pay(code, wait_for_notice=True)
    return [headers["wechatpay-serial"] for headers, _ in desk.got[-count:]]


async def test_a_new_certificate_is_served_beside_the_old_one_and_both_sign(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    await wechat.sandbox.control("modes", wechat_pay_keys="certificate")
    old = wechat.account["platform_certificate_serial"]

    rotated = await wechat.sandbox.control("rotate", what="wechat_certificate")
    served = (await wechat.call("GET", "/v3/certificates?algorithm_type=RSA")).json["data"]
    wechat.sandbox.credentials.update(_now(wechat.sandbox))
    serials = await _notice_serials(wechat, desk, 4)

    new = wechat.account["platform_certificate_serial"]
    assert rotated["alive"] == [old, new]
    assert [one["serial_no"] for one in served] == [new, old]
    opened = [wechat.opened(one["encrypt_certificate"]) for one in served]
    assert opened == [wechat.account["platform_certificates"][serial] for serial in (new, old)]
    assert set(serials) == {old, new}
    assert all(wechat.believes(headers, body) for headers, body in desk.got)


async def test_the_old_certificate_ends_after_a_day(wechat: WechatMerchant) -> None:
    await wechat.sandbox.control("modes", wechat_pay_keys="certificate")
    old = wechat.account["platform_certificate_serial"]
    await wechat.sandbox.control("rotate", what="wechat_certificate")

    await wechat.sandbox.advance(86401)
    served = (await wechat.call("GET", "/v3/certificates")).json["data"]

    [only] = served
    assert only["serial_no"] != old
    assert only["serial_no"] == _now(wechat.sandbox)["wechat_pay"]["platform_certificate_serial"]


async def test_answers_and_notices_switch_separately(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    old = wechat.account["public_key_id"]

    await wechat.sandbox.control("rotate", what="wechat_public_key", answers="old", notices="new")
    wechat.sandbox.credentials.update(_now(wechat.sandbox))
    wechat.headers = {"Wechatpay-Serial": old}
    answered_by_old = await wechat.query(NUMBER[:20])
    await wechat.prepay(NUMBER)
    first = await wechat.query(NUMBER)
    [told_by] = await _notice_serials(wechat, desk, 1)
    await wechat.sandbox.control("rotate", what="wechat_public_key", step="switch", answers="new")
    second = await wechat.query(NUMBER)

    new = wechat.account["public_key_id"]
    assert answered_by_old.status == 404
    assert new != old
    assert new.startswith("PUB_KEY_ID_")
    assert first.headers["wechatpay-serial"] == old
    assert told_by == new
    assert second.headers["wechatpay-serial"] == new
    assert wechat.believes(first.headers, first.body)
    assert wechat.believes(second.headers, second.body)
    assert wechat.believes(*desk.got[0])


async def test_while_both_sign_the_request_chooses_and_a_finished_key_signs_no_more(
    wechat: WechatMerchant,
) -> None:
    old = wechat.account["public_key_id"]
    await wechat.prepay(NUMBER)
    await wechat.sandbox.control("rotate", what="wechat_public_key")

    wechat.headers = {"Wechatpay-Serial": old}
    asked_old = await wechat.query(NUMBER)
    finished = await wechat.sandbox.control("rotate", what="wechat_public_key", step="finish")
    after = await wechat.query(NUMBER)

    assert asked_old.headers["wechatpay-serial"] == old
    assert finished["alive"] == [after.headers["wechatpay-serial"]]
    assert after.headers["wechatpay-serial"] != old


async def test_another_process_sees_the_rotation_and_exported_files_keep_their_names(
    wechat: WechatMerchant, sandbox: RunningSandbox
) -> None:
    before = sandbox.credentials["wechat_pay"]
    await sandbox.control("rotate", what="wechat_public_key")
    await sandbox.control("rotate", what="alipay_certificate")

    after = _now(sandbox)
    export_secrets(sandbox.data, sandbox.data / "secrets")

    folder = sandbox.data / "secrets"
    assert list(after["wechat_pay"]["public_keys"]) == [
        before["public_key_id"],
        after["wechat_pay"]["public_key_id"],
    ]
    named_by_settings = (folder / "wechat_pay/platform_public_key.pem").read_text()
    assert named_by_settings == before["public_key"]
    newest = folder / f"wechat_pay/public_keys/{after['wechat_pay']['public_key_id']}.pem"
    assert newest.read_text() == after["wechat_pay"]["public_key"]
    leaf = folder / "alipay/2021000000000110/alipay_cert.crt"
    assert leaf.read_text() == after["alipay_certificate"]["alipay_certificate"]


async def test_alipays_bare_key_changes_without_a_name(
    alipay: AlipayMerchant, desk: NoticeDesk
) -> None:
    old = alipay.account["alipay_public_key"]
    code = await alipay.precreate(NUMBER, notify_url=desk.url)

    await alipay.sandbox.control("rotate", what="alipay_key", answers="old", notices="new")
    await alipay.call("alipay.trade.query", {"out_trade_no": NUMBER})
    await alipay.sandbox.pay(code, wait_for_notice=True)
    new = _now(alipay.sandbox)["alipay"]["alipay_public_key"]

    [form] = desk.forms()
    believed_with_old = alipay.believes(form)
    alipay.sandbox.credentials.update(_now(alipay.sandbox))
    assert new != old
    assert not believed_with_old
    assert alipay.believes(form)


async def test_a_new_alipay_certificate_is_fetched_by_its_number(sandbox: RunningSandbox) -> None:
    merchant = AlipayMerchant(sandbox, in_certificate_mode=True)
    await merchant.precreate(NUMBER)
    await sandbox.control("rotate", what="alipay_certificate", answers="new")

    body = await merchant.raw("alipay.trade.query", {"out_trade_no": NUMBER})
    number = json.loads(body)["alipay_cert_sn"]
    fetched = json.loads(await merchant.raw(DOWNLOAD, {"alipay_cert_sn": number}))
    content = fetched["alipay_open_app_alipaycert_download_response"]["alipay_cert_content"]

    new = _now(sandbox)["alipay_certificate"]
    assert number not in merchant.certificates
    assert number == new["alipay_cert_sn"]
    merchant.certificates[number] = _unpacked(content)
    assert merchant.certificates[number] == new["alipay_certificate"]
    told = await merchant.call("alipay.trade.query", {"out_trade_no": NUMBER})
    assert told["sub_code"] == "ACQ.TRADE_NOT_EXIST"


def _unpacked(content: str) -> str:
    return base64.b64decode(content).decode()


@pytest.mark.parametrize(
    "body",
    [
        {"what": "everything"},
        {"what": "alipay_key", "step": "sideways"},
        {"what": "alipay_key", "answers": "perhaps"},
        {},
    ],
)
async def test_a_wrong_rotation_changes_nothing(
    sandbox: RunningSandbox, body: dict[str, Any]
) -> None:
    before = await sandbox.look("keys")

    async with sandbox.http.post(f"{sandbox.base_url}/control/rotate", json=body) as answer:
        assert answer.status == 400

    assert await sandbox.look("keys") == before


async def test_the_old_key_alone_is_known_to_whoever_does_not_look(
    wechat: WechatMerchant, desk: NoticeDesk
) -> None:
    """The danger the lever is for: who keeps one key loses half of the notices."""
    old = wechat.account["public_key"]
    await wechat.sandbox.control("rotate", what="wechat_public_key")

    await _notice_serials(wechat, desk, 4)

    believed = [
        is_signed(
            old,
            f"{headers['wechatpay-timestamp']}\n{headers['wechatpay-nonce']}\n".encode()
            + body
            + b"\n",
            headers["wechatpay-signature"],
        )
        for headers, body in desk.got
    ]
    assert sorted(believed) == [False, False, True, True]
