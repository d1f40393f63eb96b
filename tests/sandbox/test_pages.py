"""The person's side: scan, choose, pay, leave, read short messages."""

import base64
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from estation.sandbox.credentials import export_secrets, write_credentials
from tests.sandbox.merchant import WechatMerchant, rsa_sign
from tests.sandbox.running import RunningSandbox

NUMBER = "20260301ABCDEFGHJKMNPQRS"
LIN = "oSandbox-LinXiaozhou00000001"


async def _get(sandbox: RunningSandbox, path: str, **query: str) -> tuple[int, str]:
    async with sandbox.http.get(f"{sandbox.base_url}{path}", params=query) as answer:
        return answer.status, await answer.text()


async def _post(sandbox: RunningSandbox, path: str, **form: str) -> tuple[int, str]:
    async with sandbox.http.post(f"{sandbox.base_url}{path}", data=form) as answer:
        return answer.status, await answer.text()


async def test_a_person_scans_chooses_a_wallet_and_pays(
    sandbox: RunningSandbox, wechat: WechatMerchant
) -> None:
    code = await wechat.prepay(NUMBER, description="契税 <b>和</b> 登记费")

    _, chooser = await _get(sandbox, "/scan", code=code)
    _, wallet = await _get(sandbox, "/scan", code=code, persona="zhou")
    _, paid = await _post(sandbox, "/wallet/pay", code=code, persona="zhou")
    again, _ = await _post(sandbox, "/wallet/pay", code=code, persona="zhou")
    _, index = await _get(sandbox, "/")

    assert "周建国" in chooser
    assert "8,175.24" in wallet
    assert "<b>和" not in wallet
    assert "支付成功" in paid
    assert again == 409
    assert NUMBER in index
    assert (await wechat.query(NUMBER)).json["trade_state"] == "SUCCESS"


async def test_a_person_leaves_and_the_code_stays_payable(
    sandbox: RunningSandbox, wechat: WechatMerchant
) -> None:
    code = await wechat.prepay(NUMBER)

    _, page = await _post(sandbox, "/wallet/cancel", code=code, persona="lin")

    assert "没有付款" in page
    assert (await sandbox.pay(code))["state"] == "SUCCESS"


async def test_an_unknown_code_says_so(sandbox: RunningSandbox) -> None:
    status, page = await _get(sandbox, "/scan", code="weixin://wxpay/bizpayurl?pr=nothing")

    assert status == 404
    assert "没有找到这个码" in page


async def test_a_jsapi_ticket_opens_only_with_the_merchant_s_signature(
    sandbox: RunningSandbox, wechat: WechatMerchant
) -> None:
    answer = await wechat.call(
        "POST", "/v3/pay/transactions/jsapi", wechat.order(NUMBER, payer={"openid": LIN})
    )
    package = f"prepay_id={answer.json['prepay_id']}"
    given = {
        "appId": wechat.account["appid"],
        "timeStamp": "1767225600",
        "nonceStr": "abc",
        "package": package,
        "signType": "RSA",
    }
    lines = "".join(
        f"{line}\n" for line in (given["appId"], given["timeStamp"], given["nonceStr"], package)
    )
    good = rsa_sign(wechat.account["merchant_private_key"], lines.encode())

    opened, page = await _get(sandbox, "/wechat/jsapi", **given, paySign=good)
    forged, _ = await _get(sandbox, "/wechat/jsapi", **given | {"nonceStr": "x"}, paySign=good)
    script, _ = await _get(
        sandbox, "/wechat/jsapi", **given, paySign=good, back="javascript:alert(1)"
    )

    assert (opened, forged) == (200, 400)
    assert "林晓舟" in page
    assert script == 200
    assert "javascript:" not in (await _get(sandbox, "/scan", code=package, back="javascript:1"))[1]


async def test_short_messages_are_shown_newest_first(sandbox: RunningSandbox) -> None:
    for code in ("111111", "222222"):
        async with sandbox.http.post(
            f"{sandbox.base_url}/sms/send",
            json={"phone": "13800000001", "text": f"验证码 {code}"},
        ) as answer:
            assert answer.status == 200
    bad = await sandbox.http.post(f"{sandbox.base_url}/sms/send", json={"phone": "1", "text": "x"})

    _, page = await _get(sandbox, "/sms")
    told = await sandbox.look("sms", phone="13800000001")
    nobody = await sandbox.look("sms", phone="13800000002")

    assert bad.status == 400
    assert page.index("222222") < page.index("111111")
    assert [message["text"] for message in told["messages"]] == ["验证码 222222", "验证码 111111"]
    assert nobody["messages"] == []


async def test_broken_control_calls_are_refused_not_crashed(sandbox: RunningSandbox) -> None:
    cases: list[tuple[str, Any]] = [
        ("pay", {}),
        ("pay", [1]),
        ("clock", {"set": "2026-03-01"}),
        ("clock", {"advance_seconds": "soon"}),
        ("bills", {"day": "today"}),
        ("modes", {"wechat_pay_keys": "none"}),
    ]

    for verb, body in cases:
        async with sandbox.http.post(f"{sandbox.base_url}/control/{verb}", json=body) as answer:
            assert answer.status == 400, (verb, await answer.text())


def test_credentials_and_exported_secrets_belong_together(tmp_path: Path) -> None:
    told = write_credentials(tmp_path / "data", "http://127.0.0.1:8200/")
    export_secrets(tmp_path / "data", tmp_path / "secrets")

    again = write_credentials(tmp_path / "data", "http://127.0.0.1:8200")
    assert again == told
    folder = tmp_path / "secrets"
    assert (folder / "wechat_pay/api_v3.key").read_text() == told["wechat_pay"]["api_v3_key"]
    assert len(told["wechat_pay"]["api_v3_key"]) == 32
    assert (folder / "wechat/app_secret").read_text() == told["wechat"]["secret"]
    assert (folder / "alipay/alipay_public_key.pem").read_text() == (
        told["alipay"]["alipay_public_key"]
    )
    key = serialization.load_pem_private_key(
        (folder / "wechat_pay/merchant_key.pem").read_bytes(), password=None
    )
    assert isinstance(key, rsa.RSAPrivateKey)
    signature = rsa_sign(told["wechat_pay"]["merchant_private_key"], b"same key")
    key.public_key().verify(
        base64.b64decode(signature), b"same key", padding.PKCS1v15(), hashes.SHA256()
    )
