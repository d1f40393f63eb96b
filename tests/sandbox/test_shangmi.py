"""WeChat Pay's commercial cryptography (国密) at the sandbox: SM2 with SM3, SM4 in GCM."""

import base64
import json
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509 import load_pem_x509_certificate

from tests.sandbox.merchant import NoticeDesk, WechatMerchant
from tests.sandbox.running import RunningSandbox

gmssl = pytest.importorskip("gmssl_pyx", reason="SM2 needs the wheel gmssl-pyx")

NUMBER = "20260301ABCDEFGHJKMNPQRS"
SCHEME = "WECHATPAY2-SM2-WITH-SM3"
CURVE = bytes.fromhex("06082a811ccf5501822d034200" + "04")


def _point(pem: str) -> bytes:
    """The public key of an SM2 certificate, which `cryptography` does not read."""
    der = _der(pem)
    place = der.index(CURVE) + len(CURVE)
    return der[place : place + 64]


def _der(pem: str) -> bytes:
    return base64.b64decode("".join(pem.strip().splitlines()[1:-1]))


@dataclass
class SmMerchant(WechatMerchant):
    """The same merchant with its second API certificate."""

    def authorization(self, method: str, target: str, content: bytes) -> str:
        rsa = super().authorization(method, target, content)
        parts = dict(part.split("=", 1) for part in rsa.split(" ", 1)[1].split(","))
        nonce, stamp = parts["nonce_str"].strip('"'), parts["timestamp"].strip('"')
        message = f"{method}\n{target}\n{stamp}\n{nonce}\n".encode() + content + b"\n"
        private = _der(self.account["sm_merchant_private_key"])
        place = private.index(b"\x02\x01\x01\x04\x20") + 5
        point = _point(self.account["sm_merchant_certificate"])
        signature = gmssl.sm2_sign(private[place : place + 32], point, message)
        parts |= {
            "serial_no": f'"{self.changes.get("serial_no", self.account["sm_merchant_serial"])}"',
            "signature": f'"{base64.b64encode(signature).decode()}"',
        }
        return f"{SCHEME} " + ",".join(f"{name}={value}" for name, value in parts.items())

    def believes(self, headers: dict[str, str], body: bytes) -> bool:
        head = f"{headers['wechatpay-timestamp']}\n{headers['wechatpay-nonce']}\n".encode()
        signature = base64.b64decode(headers["wechatpay-signature"])
        known = headers["wechatpay-serial"] == self.account["sm_platform_certificate_serial"]
        point = _point(self.account["sm_platform_certificate"])
        return known and bool(gmssl.sm2_verify(point, head + body + b"\n", signature))

    def opened(self, resource: dict[str, str]) -> Any:
        digest = hashes.Hash(hashes.SM3())
        digest.update(self.account["api_v3_key"].encode())
        raw = base64.b64decode(resource["ciphertext"])
        opening = Cipher(
            algorithms.SM4(digest.finalize()[:16]),
            modes.GCM(resource["nonce"].encode(), raw[-16:]),
        ).decryptor()
        opening.authenticate_additional_data(resource["associated_data"].encode())
        plain = (opening.update(raw[:-16]) + opening.finalize()).decode()
        return json.loads(plain) if plain.startswith("{") else plain


@pytest.fixture
def merchant(sandbox: RunningSandbox) -> SmMerchant:
    return SmMerchant(sandbox)


async def test_a_request_in_sm2_is_answered_in_sm2(merchant: SmMerchant) -> None:
    await merchant.prepay(NUMBER)

    answer = await merchant.query(NUMBER)

    assert answer.json["trade_state"] == "NOTPAY"
    assert answer.headers["wechatpay-signature-type"] == SCHEME
    assert merchant.believes(answer.headers, answer.body)
    assert not merchant.believes(answer.headers, answer.body + b" ")


async def test_the_same_merchant_may_ask_in_rsa(
    merchant: SmMerchant, wechat: WechatMerchant
) -> None:
    await merchant.prepay(NUMBER)

    answer = await wechat.query(NUMBER)

    assert answer.headers["wechatpay-signature-type"] == "WECHATPAY2-SHA256-RSA2048"
    assert wechat.believes(answer.headers, answer.body)


async def test_the_certificate_of_the_other_cryptography_does_not_fit(
    merchant: SmMerchant,
) -> None:
    merchant.changes = {"serial_no": merchant.account["merchant_serial"]}

    answer = await merchant.query(NUMBER)

    assert (answer.status, answer.code) == (401, "SIGN_ERROR")


async def test_notices_are_signed_in_sm2_and_sealed_in_sm4(
    merchant: SmMerchant, desk: NoticeDesk
) -> None:
    await merchant.sandbox.control("modes", wechat_pay_algorithm="sm2")

    await merchant.sandbox.pay(
        await merchant.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True
    )

    [(headers, body)] = desk.got
    resource = json.loads(body)["resource"]
    assert headers["wechatpay-signature-type"] == SCHEME
    assert merchant.believes(headers, body)
    assert resource["algorithm"] == "AEAD_SM4_GCM"
    assert merchant.opened(resource)["trade_state"] == "SUCCESS"


@pytest.mark.parametrize("kind", ["other_key", "unknown_serial"])
async def test_an_sm2_notice_can_be_a_stranger_s(
    merchant: SmMerchant, desk: NoticeDesk, kind: str
) -> None:
    await merchant.sandbox.control("modes", wechat_pay_algorithm="sm2")
    await merchant.sandbox.fault(kind)

    await merchant.sandbox.pay(
        await merchant.prepay(NUMBER, notify_url=desk.url), wait_for_notice=True
    )

    assert not merchant.believes(*desk.got[0])


async def test_certificates_come_by_the_kind_that_is_asked_for(merchant: SmMerchant) -> None:
    only_sm = (await merchant.call("GET", "/v3/certificates?algorithm_type=SM2")).json["data"]
    no_rsa = await merchant.call("GET", "/v3/certificates?algorithm_type=RSA")
    await merchant.sandbox.control("modes", wechat_pay_keys="certificate")
    both = (await merchant.call("GET", "/v3/certificates?algorithm_type=ALL")).json["data"]
    wrong = await merchant.call("GET", "/v3/certificates?algorithm_type=DES")

    [listed] = only_sm
    pem = merchant.opened(listed["encrypt_certificate"])
    assert pem == merchant.account["sm_platform_certificate"]
    assert f"{load_pem_x509_certificate(pem.encode()).serial_number:040X}" == listed["serial_no"]
    assert no_rsa.status == 404
    algorithms_told = {one["encrypt_certificate"]["algorithm"] for one in both}
    assert algorithms_told == {"AEAD_SM4_GCM", "AEAD_AES_256_GCM"}
    assert wrong.code == "PARAM_ERROR"


async def test_a_certificate_signs_itself_and_names_the_merchants_serial(
    merchant: SmMerchant,
) -> None:
    account = merchant.account
    made = load_pem_x509_certificate(account["sm_merchant_certificate"].encode())

    assert f"{made.serial_number:040X}" == account["sm_merchant_serial"]
    assert made.signature_algorithm_oid.dotted_string == "1.2.156.10197.1.501"
    point = _point(account["sm_merchant_certificate"])
    assert gmssl.sm2_verify(point, made.tbs_certificate_bytes, made.signature)
