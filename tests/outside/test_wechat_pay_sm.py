"""The commercial cryptography profile (国密): published vectors, then a whole merchant of it.

Vectors: GB/T 32905 and GB/T 32918.5 annex A; the tests of WeChat Pay's SDK for Java
(wechatpay-java, shangmi-testing), whose keys are published test keys.
"""

import base64
import json
import re
import sys
from typing import Any

import pytest
from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from estation.outside.pay_channels import (
    ChannelState,
    ChannelUnknown,
    NoticeRejected,
    PayChannel,
    Scene,
)
from estation.outside.pay_channels.believing import Disbelief
from estation.outside.pay_channels.wechat_pay.platform_keys import certificates_in
from estation.outside.pay_channels.wechat_pay.resources import ApiV3Cipher
from estation.outside.pay_channels.wechat_pay.schemes import RSA_SCHEME, SM4_GCM, SM_SCHEME
from estation.outside.pay_channels.wechat_pay.signing import sm2_merchant_key
from estation.outside.pay_channels.wechat_pay.sm import (
    Sm2PublicKey,
    Sm2Signer,
    Sm4Gcm,
    load_sm2_public_key,
    load_sm2_signer,
    sm3,
)
from estation.shared.key_files import KeyFiles
from tests.outside.counterparts import (
    NOW,
    WechatNotice,
    public_pem,
    transaction,
    wechat_pay_channel,
)
from tests.outside.listening import calling, listening
from tests.outside.test_wechat_pay_calls import REQUEST
from tests.outside.wechat_desk import right

gmssl = pytest.importorskip("gmssl_pyx", reason="the extra `sm` is not installed")


def pem(label: str, text: str) -> bytes:
    return f"-----BEGIN {label}-----\n{text}\n-----END {label}-----\n".encode()


API_V3_KEY = b"a7cde1ZJB1kG2e7VfTs3jQzaWizur8Gb"
SERIAL = "54E7F59ED8DF4570CFB14780EA8152D45A675EE6"
PRIVATE_KEY = pem(
    "PRIVATE KEY",
    "MIGTAgEAMBMGByqGSM49AgEGCCqBHM9VAYItBHkwdwIBAQQg/U9Saz5ceDGQhFBM\n"
    "f/cHIh2+q5Lzvhrb8L2SI4sPUR+gCgYIKoEcz1UBgi2hRANCAAR7zUf3XqGdBMCn\n"
    "K02nD1fdGz+TN8xd0SQYgbkTQxk5v2mlXva0ZxDH4XJFI9D2Rt1pTSSDl29uhQ1G\n"
    "Y3j6iy9+",
)
CERTIFICATE = pem(
    "CERTIFICATE",
    "MIICyTCCAmygAwIBAgIUVOf1ntjfRXDPsUeA6oFS1FpnXuYwDAYIKoEcz1UBg3UF\n"
    "ADCBjTFHMEUGA1UEAww+U2hlbiBaaGVuIGlUcnVzQ2hpbmEgQ2xhc3MgRW50ZXJw\n"
    "cmlzZSBTdWJzY3JpYmVyIENBIFNNMiAtIFRlc3QxGDAWBgNVBAsMD+a1i+ivlemD\n"
    "qOivleeUqDEbMBkGA1UECgwS5aSp6K+a5a6J5L+h6K+V55SoMQswCQYDVQQGEwJD\n"
    "TjAeFw0yMjA4MDQxMjE0MTlaFw0yMzA5MDMxMjE0MTlaMGsxCzAJBgNVBAYTAkNO\n"
    "MRswGQYDVQQKDBLlvq7kv6HllYbmiLfns7vnu58xKjAoBgNVBAsMIea3seWcs+W4\n"
    "guS8n+iNo+enkeaKgOaciemZkOWFrOWPuDETMBEGA1UEAwwKMjQ4MzI4MTc2MTBZ\n"
    "MBMGByqGSM49AgEGCCqBHM9VAYItA0IABHvNR/deoZ0EwKcrTacPV90bP5M3zF3R\n"
    "JBiBuRNDGTm/aaVe9rRnEMfhckUj0PZG3WlNJIOXb26FDUZjePqLL36jgcgwgcUw\n"
    "DAYDVR0TAQH/BAIwADAOBgNVHQ8BAf8EBAMCBsAwHwYDVR0jBBgwFoAUK0Y6T9Ge\n"
    "LM7UH4bC1j2avycoZPcwHQYDVR0OBBYEFBmE5STz2WNsXVrgclXrxsl6SCihMGUG\n"
    "A1UdHwReMFwwWqBYoFaGVGh0dHA6Ly9ldmNhLml0cnVzLmNvbS5jbi9wdWJsaWMv\n"
    "aXRydXNjcmw/Q0E9NzMzNUExQUYzNzRBMUU4QjQwM0FCMUFDMkQwNjVDQUU3NUNB\n"
    "QjIzNjAMBggqgRzPVQGDdQUAA0kAMEYCIQDK0r6D8VyiUVMfRnAfz40ZtiG8DJEF\n"
    "6Rn41oZ3qPW1aQIhAKtn5sKME+thLQFeyV70VSsraZ7h9Fccal2WzI2oCdtY",
)
SIGNATURE = (
    "MEYCIQD35Rp3CKt7pLme/a0GaCVmwSeOl7X/12+ppRivcJuf6QIhAO5Vpy4tSk9S"
    "JUrgH5I5Qy0aYhFG9lN0aof1f5wJOI05"
)
"""Of `message`, under the certificate."""


# Published vectors


def test_sm3_of_the_standard() -> None:
    assert sm3(b"abc").hex() == ("66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0")
    assert sm3(b"abcd" * 16).hex() == (
        "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"
    )


def test_sm2_of_the_standard() -> None:
    key = Sm2PublicKey(
        bytes.fromhex(
            "09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020"
            "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13"
        )
    )
    private = bytes.fromhex("3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8")
    r = "00F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3"
    s = "00B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA"
    signature = base64.b64encode(bytes.fromhex(f"30460221{r}0221{s}")).decode()

    key.verify(b"message digest", signature, scheme=SM_SCHEME)
    with pytest.raises(Disbelief):
        key.verify(b"message digesT", signature, scheme=SM_SCHEME)
    ours = Sm2Signer(private, key.point).sign(b"message digest")
    key.verify(b"message digest", ours, scheme=SM_SCHEME)


def test_wechats_own_example_is_verified_signed_and_decrypted() -> None:
    key = load_sm2_public_key(CERTIFICATE)
    key.verify(b"message", SIGNATURE, scheme=SM_SCHEME)
    with pytest.raises(Disbelief, match="bad_signature"):
        key.verify(b"false-message", SIGNATURE, scheme=SM_SCHEME)

    signer = load_sm2_signer(PRIVATE_KEY)
    key.verify(b"message", signer.sign(b"message"), scheme=SM_SCHEME)

    sealed = base64.b64decode("+lcLNfkZQQx+iQm20Apa3x9Mb/5L7PgZ7w==")
    cipher = Sm4Gcm(API_V3_KEY)
    assert cipher.decrypt(b"uluk4a9R25RW", sealed, b"associatedData") == b"plaintext"
    for nonce, data, associated in (
        (b"uluk4a9R25RX", sealed, b"associatedData"),
        (b"uluk4a9R25RW", sealed[:-1], b"associatedData"),
        (b"uluk4a9R25RW", b"", b"associatedData"),
        (b"uluk4a9R25RW", sealed, b"other"),
    ):
        with pytest.raises(InvalidTag):
            cipher.decrypt(nonce, data, associated)


@pytest.mark.parametrize("signature", ["", "AAAA", "no base64!", SIGNATURE[:-4], "A" * 352])
def test_what_is_no_signature_is_a_bad_one(signature: str) -> None:
    with pytest.raises(Disbelief, match="bad_signature"):
        load_sm2_public_key(CERTIFICATE).verify(b"message", signature, scheme=SM_SCHEME)


def test_a_merchants_certificate_names_its_serial_and_must_be_the_keys() -> None:
    assert sm2_merchant_key(PRIVATE_KEY, CERTIFICATE).serial == SERIAL
    other, _ = private_key_pem()
    with pytest.raises(ValueError, match="belong together"):
        sm2_merchant_key(other, CERTIFICATE)


@pytest.mark.parametrize("wrong", [public_pem("platform"), b"", b"SM2", pem("PUBLIC KEY", "AAAA")])
def test_what_is_no_sm2_key_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="key must be"):
        load_sm2_public_key(wrong)
    with pytest.raises(ValueError, match="key must be"):
        load_sm2_signer(wrong)


# A whole merchant


def private_key_pem() -> tuple[bytes, bytes]:
    """A fresh PKCS#8 key and its raw public point."""
    point, private = gmssl.sm2_key_generate()
    head = base64.b64decode(PRIVATE_KEY.split(b"\n", 1)[1].rsplit(b"-----END", 1)[0])
    der = head[:36] + private + head[68:-64] + point
    return pem("PRIVATE KEY", base64.encodebytes(der).decode().strip()), point


PLATFORM_PUBLIC, PLATFORM_PRIVATE = gmssl.sm2_key_generate()
PLATFORM_PEM = pem(
    "PUBLIC KEY",
    base64.b64encode(
        bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d03420004") + PLATFORM_PUBLIC
    ).decode(),
)
FILES = KeyFiles(
    {"merchant": PRIVATE_KEY, "api_v3": API_V3_KEY, "platform": PLATFORM_PEM}.__getitem__
)


def sm_channel(session: Any = None, base_url: str = "http://x") -> PayChannel:
    return wechat_pay_channel(session, base_url, files=FILES, signature="sm2")


def sm_signature(body: bytes, private: bytes = PLATFORM_PRIVATE) -> dict[str, str]:
    headers = WechatNotice().headers(body)
    message = f"{headers['wechatpay-timestamp']}\n{headers['wechatpay-nonce']}\n".encode()
    raw = gmssl.sm2_sign(private, PLATFORM_PUBLIC, message + body + b"\n")
    headers["wechatpay-signature"] = base64.b64encode(raw).decode()
    headers["wechatpay-signature-type"] = SM_SCHEME
    return headers


def sm_sealed(plaintext: bytes, aad: str = "transaction") -> dict[str, str]:
    encryptor = Cipher(algorithms.SM4(sm3(API_V3_KEY)[:16]), modes.GCM(b"abcdef012345")).encryptor()
    encryptor.authenticate_additional_data(aad.encode())
    sealed = encryptor.update(plaintext) + encryptor.finalize() + encryptor.tag
    return {
        "algorithm": "AEAD_SM4_GCM",
        "ciphertext": base64.b64encode(sealed).decode(),
        "associated_data": aad,
        "nonce": "abcdef012345",
    }


def sm_notice() -> tuple[dict[str, str], bytes]:
    body = WechatNotice(resource=sm_sealed(json.dumps(transaction()).encode())).sent()[1]
    return sm_signature(body), body


async def test_requests_are_signed_and_answers_believed_under_sm2() -> None:
    async with listening() as there, calling() as session:
        body = json.dumps(transaction()).encode()
        there.say(web.Response(body=body, headers=sm_signature(body)))

        report = await sm_channel(session, there.base_url).query("20260301ABCDEFGHJKMNPQRS")

    (heard,) = there.heard
    scheme, _, rest = heard.headers["authorization"].partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    message = f"GET\n{heard.target}\n{fields['timestamp']}\n{fields['nonce_str']}\n\n".encode()
    assert scheme == "WECHATPAY2-SM2-WITH-SM3"
    load_sm2_public_key(CERTIFICATE).verify(message, fields["signature"], scheme=SM_SCHEME)
    assert report.state is ChannelState.PAID


async def test_an_answer_under_rsa_is_not_believed_by_an_sm2_merchant() -> None:
    async with listening() as there, calling() as session:
        there.say(right(transaction()))

        with pytest.raises(ChannelUnknown, match="UNVERIFIED"):
            await sm_channel(session, there.base_url).query("20260301ABCDEFGHJKMNPQRS")


async def test_the_pay_sheet_is_signed_under_sm2() -> None:
    async with listening() as there, calling() as session:
        body = b'{"prepay_id":"wx201410272009395522657a690389285100"}'
        there.say(web.Response(body=body, headers=sm_signature(body)))

        ticket = await sm_channel(session, there.base_url).open_payment(Scene.JSAPI, REQUEST)

    said = ticket.jsapi_parameters
    assert said is not None
    lines = "".join(f"{said[n]}\n" for n in ("appId", "timeStamp", "nonceStr", "package"))
    load_sm2_public_key(CERTIFICATE).verify(lines.encode(), said["paySign"], scheme=SM_SCHEME)
    assert said["signType"] == "SM2"


def test_a_notice_under_sm2_and_sm4_is_believed() -> None:
    headers, body = sm_notice()

    notice = sm_channel().open_notice(headers, body, now=NOW)

    assert notice.report is not None
    assert notice.report.paid_fen == 817524


def test_a_notice_forged_or_of_the_other_profile_is_not() -> None:
    headers, body = sm_notice()
    _, stranger = gmssl.sm2_key_generate()
    rsa_headers, rsa_body = WechatNotice().sent()
    cases = [
        (sm_channel(), sm_signature(body, stranger), body, "bad_signature"),
        (sm_channel(), headers, body.replace(b"EV-", b"EW-"), "bad_signature"),
        (sm_channel(), {**headers, "wechatpay-signature-type": RSA_SCHEME}, body, "bad_signature"),
        (sm_channel(), rsa_headers, rsa_body, "bad_signature"),
        (sm_channel(), sm_signature(rsa_body), rsa_body, "undecryptable"),
        (wechat_pay_channel(), headers, body, "bad_signature"),
    ]

    for channel, said, content, reason in cases:
        with pytest.raises(NoticeRejected) as rejected:
            channel.open_notice(said, content, now=NOW)
        assert rejected.value.reason == reason


def test_certificates_of_the_profile_are_read() -> None:
    item = {"serial_no": SERIAL, "encrypt_certificate": sm_sealed(CERTIFICATE, "certificate")}
    cipher = ApiV3Cipher(FILES, "api_v3", SM4_GCM)

    found = certificates_in(json.dumps({"data": [item]}).encode(), cipher, SM4_GCM)

    assert found[SERIAL].key == load_sm2_public_key(CERTIFICATE)
    assert found[SERIAL].expires_at is not None


def test_the_profile_without_its_wheel_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gmssl_pyx", None)

    with pytest.raises(ValueError, match=r"estation\[sm\]"):
        sm_channel()
    assert wechat_pay_channel().account_id  # The usual profile needs nothing of it.
