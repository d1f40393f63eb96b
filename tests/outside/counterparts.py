"""The channels' half of the protocols, written for the tests from their documentation.

Shares nothing with our clients: what it signs they must believe, what they sign it must.
"""

import base64
import functools
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import aiohttp
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.outside.pay_channels import VerifiedNotice, alipay, wechat_pay
from estation.outside.pay_channels.alipay import Alipay
from estation.outside.pay_channels.payers import open_payers
from estation.outside.pay_channels.wechat_pay import CombinedWechatPay, WechatPay
from estation.settings import AlipayAccount, WechatCombineAccount, WechatPayAccount
from estation.shared.crypto import Vault
from estation.shared.key_files import KeyFiles

NOW = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
VAULT = Vault(bytes(range(32)))
"""10:00 in Beijing."""

API_V3_KEY = b"0123456789abcdef0123456789abcdef"
PUBLIC_KEY_ID = "PUB_KEY_ID_0119000001092026"
MCHID = "1900000109"
APPID = "wx8888888888888888"
MINI_APPID = "wx6666666666666666"
COMBINE_MCHID = "1900000100"
PAYEES = {"1900000111": "wechat_pay:1900000111", "1900000112": "wechat_pay:1900000112"}
"""mchid -> account_id of the merchants that sub-orders pay."""
APP_ID = "2021000000000109"
SELLER_ID = "2088000000000109"


@functools.cache
def key(name: str) -> rsa.RSAPrivateKey:
    """One key per role for the whole run: making RSA keys is slow."""
    assert name
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(name: str) -> bytes:
    return key(name).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(name: str) -> bytes:
    return (
        key(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def signed(name: str, message: bytes, algorithm: hashes.HashAlgorithm | None = None) -> str:
    signature = key(name).sign(message, padding.PKCS1v15(), algorithm or hashes.SHA256())
    return base64.b64encode(signature).decode()


def verify(name: str, message: bytes, signature: str) -> None:
    """Raises InvalidSignature."""
    key(name).public_key().verify(
        base64.b64decode(signature), message, padding.PKCS1v15(), hashes.SHA256()
    )


# WeChat Pay

_SECRETS = {
    "merchant": lambda: private_pem("merchant"),
    "api_v3": lambda: API_V3_KEY,
    "platform": lambda: public_pem("platform"),
    "platform-2": lambda: public_pem("platform-2"),
}
FILES = KeyFiles(lambda name: _SECRETS[name]())
_MERCHANT: dict[str, Any] = {
    "appid": APPID,
    "merchant_serial": "4A0DE7F2C61B5D839E07A4C2F1B86D350E9C7A24",
    "private_key_file": "merchant",
    "api_v3_key_file": "api_v3",
    "public_key_id": PUBLIC_KEY_ID,
    "public_key_file": "platform",
}


def wechat_pay_channel(
    session: aiohttp.ClientSession | None = None,
    base_url: str = "http://127.0.0.1:9",
    now: datetime = NOW,
    *,
    files: KeyFiles | None = None,
    **changes: Any,
) -> WechatPay:
    """`changes` are the account's settings, where they differ from those of most tests."""
    account = WechatPayAccount(
        **{
            "account_id": f"wechat_pay:{MCHID}",
            "name": "江城市政务缴费归集户",
            "base_url": base_url,
            "mchid": MCHID,
            "mini_appid": MINI_APPID,
            **_MERCHANT,
            **changes,
        }
    )
    return wechat_pay.from_settings(
        session or _no_session(), account, files or FILES, lambda: now, VAULT
    )


def combined_channel(
    session: aiohttp.ClientSession | None = None,
    base_url: str = "http://127.0.0.1:9",
    now: datetime = NOW,
) -> CombinedWechatPay:
    account = WechatCombineAccount(
        account_id=f"wechat_combine:{COMBINE_MCHID}",
        name="江城市政务缴费合单户",
        base_url=base_url,
        mchid=COMBINE_MCHID,
        **_MERCHANT,
    )
    return wechat_pay.combined_from_settings(
        session or _no_session(), account, PAYEES, FILES, lambda: now, VAULT
    )


def clear(notice: VerifiedNotice) -> VerifiedNotice:
    """With what names the payer opened again: no two seals of a text are equal."""

    def opened(one: Any) -> Any:
        return one and replace(one, raw=open_payers(VAULT, one.raw))

    return replace(
        notice,
        plaintext=open_payers(VAULT, notice.plaintext),
        report=opened(notice.report),
        refund=opened(notice.refund),
    )


def transaction(**changes: Any) -> dict[str, Any]:
    """The plaintext of a successful payment of ¥8,175.24."""
    return {
        "mchid": MCHID,
        "appid": APPID,
        "out_trade_no": "20260301ABCDEFGHJKMNPQRS",
        "transaction_id": "4200002026030112345678901234",
        "trade_type": "NATIVE",
        "trade_state": "SUCCESS",
        "trade_state_desc": "支付成功",
        "bank_type": "CMB_DEBIT",
        "success_time": "2026-03-01T09:59:58+08:00",
        "payer": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
        "amount": {
            "total": 817524,
            "payer_total": 817524,
            "currency": "CNY",
            "payer_currency": "CNY",
        },
        **changes,
    }


def refund(**changes: Any) -> dict[str, Any]:
    """The plaintext of a refund of ¥81.75 that has arrived; a status of None is left out."""
    return {
        "mchid": MCHID,
        "out_trade_no": "20260301ABCDEFGHJKMNPQRS",
        "transaction_id": "4200002026030112345678901234",
        "out_refund_no": "R20260301ABCDEFGHJKMNPQ-1",
        "refund_id": "50000000382019052709732678859",
        "refund_status": "SUCCESS",
        "success_time": "2026-03-01T09:59:58+08:00",
        "user_received_account": "招商银行信用卡0403",
        "amount": {"total": 817524, "refund": 8175, "payer_total": 817524, "payer_refund": 8175},
        **changes,
    }


def combined_order(**changes: Any) -> dict[str, Any]:
    """The plaintext of a combined payment of ¥8,000.00 and ¥175.24."""
    return {
        "combine_appid": APPID,
        "combine_mchid": COMBINE_MCHID,
        "combine_out_trade_no": "20260301ABCDEFGHJKMNPQRS",
        "combine_payer_info": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
        "sub_orders": [
            sub_order(),
            sub_order(
                mchid="1900000112",
                out_trade_no="20260301ABCDEFGHJKMNPQRS-2",
                transaction_id="4200002026030112345678901236",
                success_time="2026-03-01T09:59:59.120+08:00",
                amount={"total_amount": 17524, "currency": "CNY", "payer_amount": 17524},
            ),
        ],
        **changes,
    }


def sub_order(**changes: Any) -> dict[str, Any]:
    return {
        "mchid": "1900000111",
        "trade_type": "NATIVE",
        "trade_state": "SUCCESS",
        "bank_type": "CMB_DEBIT",
        "attach": "20260301ABCDEFGHJKMNPQRS",
        "success_time": "2026-03-01T09:59:58.120+08:00",
        "transaction_id": "4200002026030112345678901235",
        "out_trade_no": "20260301ABCDEFGHJKMNPQRS-1",
        # The payer used a coupon: what was paid for is total_amount.
        "amount": {"total_amount": 800000, "currency": "CNY", "payer_amount": 799000},
        **changes,
    }


def sealed(plaintext: bytes, *, api_v3_key: bytes = API_V3_KEY, aad: str = "transaction") -> Any:
    nonce = "abcdef012345"
    ciphertext = AESGCM(api_v3_key).encrypt(nonce.encode(), plaintext, aad.encode())
    return {
        "algorithm": "AEAD_AES_256_GCM",
        "original_type": aad,
        "ciphertext": base64.b64encode(ciphertext).decode(),
        "associated_data": aad,
        "nonce": nonce,
    }


@dataclass
class WechatNotice:
    """A notice that is right in everything; tests change one thing before `sent`."""

    plaintext: dict[str, Any] = field(default_factory=transaction)
    event_type: str = "TRANSACTION.SUCCESS"
    notice_id: str = "EV-2018022511223320873"
    api_v3_key: bytes = API_V3_KEY
    timestamp: str = str(int(NOW.timestamp()))
    serial: str = PUBLIC_KEY_ID
    signer: str = "platform"
    resource: Any = None

    def sent(self) -> tuple[dict[str, str], bytes]:
        plaintext = json.dumps(self.plaintext, ensure_ascii=False).encode()
        body = json.dumps(
            {
                "id": self.notice_id,
                "create_time": "2026-03-01T10:00:00+08:00",
                "resource_type": "encrypt-resource",
                "event_type": self.event_type,
                "summary": "支付成功",
                "resource": self.resource or sealed(plaintext, api_v3_key=self.api_v3_key),
            },
            ensure_ascii=False,
        ).encode()
        return self.headers(body), body

    def headers(self, body: bytes) -> dict[str, str]:
        return {
            "content-type": "application/json",
            **wechat_signature(
                body, timestamp=self.timestamp, serial=self.serial, signer=self.signer
            ),
        }


def wechat_signature(
    body: bytes,
    *,
    timestamp: str = str(int(NOW.timestamp())),
    serial: str = PUBLIC_KEY_ID,
    signer: str = "platform",
) -> dict[str, str]:
    nonce = "EcZ9Cmy4Xyx1i6RlJQzLcCyEqDa26NBz"
    message = f"{timestamp}\n{nonce}\n".encode() + body + b"\n"
    return {
        "wechatpay-timestamp": timestamp,
        "wechatpay-nonce": nonce,
        "wechatpay-signature": signed(signer, message),
        "wechatpay-serial": serial,
        "wechatpay-signature-type": "WECHATPAY2-SHA256-RSA2048",
    }


# Alipay


def alipay_channel(
    session: aiohttp.ClientSession | None = None,
    gateway_url: str = "http://127.0.0.1:9/gateway.do",
    now: datetime = NOW,
) -> Alipay:
    account = AlipayAccount(
        account_id=f"alipay:{APP_ID}",
        name="江城市政务缴费归集户",
        gateway_url=gateway_url,
        app_id=APP_ID,
        seller_id=SELLER_ID,
        private_key_file="merchant",
        alipay_public_key_file="alipay",
        bill_hosts=["127.0.0.1"],
    )
    secrets = {"merchant": private_pem("merchant"), "alipay": public_pem("alipay")}
    files = KeyFiles(secrets.__getitem__)
    return alipay.from_settings(session or _no_session(), account, files, lambda: now, VAULT)


def alipay_notice(charset: str = "utf-8", **changes: str) -> dict[str, str]:
    """The fields of a successful payment of ¥8,175.24; an empty value removes nothing."""
    return {
        "notify_time": "2026-03-01 10:00:00",
        "notify_type": "trade_status_sync",
        "notify_id": "2026030100222100002034200000000001",
        "app_id": APP_ID,
        "auth_app_id": APP_ID,
        "charset": charset,
        "version": "1.0",
        "trade_no": "2026030122001400010500000001",
        "out_trade_no": "20260301ABCDEFGHJKMNPQRS",
        "buyer_id": "2088102177891440",
        "buyer_logon_id": "lin***@example.com",
        "seller_id": SELLER_ID,
        "trade_status": "TRADE_SUCCESS",
        "total_amount": "8175.24",
        "receipt_amount": "8175.24",
        "subject": "契税+登记费 100% “林晓舟”",
        "gmt_create": "2026-03-01 09:59:50",
        "gmt_payment": "2026-03-01 09:59:58",
        "fund_bill_list": '[{"amount":"8175.24","fundChannel":"PCREDIT"}]',
        "passback_params": "",
        **changes,
    }


def alipay_form(
    fields: dict[str, str], *, signer: str = "alipay", sign_type: str = "RSA2"
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a notice with these fields, signed in the notice's charset."""
    charset = fields.get("charset", "utf-8")
    kept = sorted((k, v) for k, v in fields.items() if v)
    message = "&".join(f"{k}={v}" for k, v in kept).encode(charset)
    algorithm = hashes.SHA1() if sign_type == "RSA" else hashes.SHA256()  # noqa: S303 - the wrong one
    everything = {**fields, "sign_type": sign_type, "sign": signed(signer, message, algorithm)}
    body = "&".join(f"{k}={quote_plus(v, encoding=charset)}" for k, v in everything.items())
    headers = {"content-type": f"application/x-www-form-urlencoded; charset={charset}"}
    return headers, body.encode()


def alipay_answer(method: str, node: dict[str, Any], *, signer: str = "alipay") -> bytes:
    text = json.dumps(node, ensure_ascii=False, separators=(",", ":"))
    signature = signed(signer, text.encode())
    return f'{{"{method.replace(".", "_")}_response":{text},"sign":"{signature}"}}'.encode()


class _NoSession:
    """For channels whose test must not call anybody."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("this test calls nobody")


def _no_session() -> Any:
    return _NoSession()
