"""Alipay's certificate mode: who names which certificate, and how the chain hangs together."""

import hashlib
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.sandbox.merchant import AlipayMerchant, NoticeDesk, is_signed, rsa_sign
from tests.sandbox.running import RunningSandbox

NUMBER = "20260301ABCDEFGHJKMNPQRS"
BIZ = {"out_trade_no": NUMBER, "total_amount": "8175.24", "subject": "契税和登记费"}
PRECREATE = "alipay.trade.precreate"


@pytest.fixture
def certified(sandbox: RunningSandbox) -> AlipayMerchant:
    return AlipayMerchant(sandbox, in_certificate_mode=True)


async def test_an_answer_names_its_certificate_between_content_and_signature(
    certified: AlipayMerchant,
) -> None:
    body = await certified.raw(PRECREATE, BIZ)

    names = list(json.loads(body))
    assert names == ["alipay_trade_precreate_response", "alipay_cert_sn", "sign"]
    assert json.loads(body)["alipay_cert_sn"] == certified.account["alipay_cert_sn"]
    assert (await certified.call(PRECREATE, BIZ))["code"] == "10000"


@pytest.mark.parametrize(
    ("changes", "sub_code"),
    [
        ({"app_cert_sn": ""}, "isv.missing-app-cert-sn"),
        ({"alipay_root_cert_sn": ""}, "isv.missing-alipay-root-cert-sn"),
        ({"app_cert_sn": "0" * 32}, "isv.invalid-app-cert-sn"),
        ({"alipay_root_cert_sn": "0" * 32}, "isv.invalid-alipay-root-cert-sn"),
        ({"app_id": "2021000000000109"}, "isv.invalid-signature"),
    ],
)
async def test_a_call_without_the_right_certificates_is_refused_unsigned(
    certified: AlipayMerchant, changes: dict[str, str], sub_code: str
) -> None:
    certified.changes = changes

    told = json.loads(await certified.raw(PRECREATE, BIZ))

    assert "sign" not in told
    assert told["error_response"]["sub_code"] == sub_code


async def test_a_notice_is_signed_by_the_certificate_it_names(
    certified: AlipayMerchant, desk: NoticeDesk
) -> None:
    code = await certified.precreate(NUMBER, notify_url=desk.url)

    await certified.sandbox.pay(code, "lin", wait_for_notice=True)

    [form] = desk.forms()
    assert certified.believes(form)
    assert form["app_id"] == "2021000000000110"
    assert form["buyer_open_id"] == "01aSandboxLinXiaozhou00000001"
    assert "buyer_id" not in form
    told = await certified.call("alipay.trade.query", {"out_trade_no": NUMBER})
    assert told["buyer_open_id"] == form["buyer_open_id"]


@pytest.mark.parametrize("target", ["answer", "notice"])
async def test_an_unknown_certificate_can_be_named(
    certified: AlipayMerchant, desk: NoticeDesk, target: str
) -> None:
    code = await certified.precreate(NUMBER, notify_url=desk.url)
    await certified.sandbox.fault("unknown_serial", target=target, channel="alipay")

    body = json.loads(await certified.raw("alipay.trade.query", {"out_trade_no": NUMBER}))
    await certified.sandbox.pay(code, wait_for_notice=True)

    [form] = desk.forms()
    named = form["alipay_cert_sn"] if target == "notice" else body["alipay_cert_sn"]
    assert named != certified.account["alipay_cert_sn"]
    assert certified.believes(form) is (target == "answer")


async def test_nobody_downloads_a_certificate_that_never_was(certified: AlipayMerchant) -> None:
    told = await certified.call("alipay.open.app.alipaycert.download", {"alipay_cert_sn": "0" * 32})

    assert told["code"] == "40004"


def test_the_chain_leads_from_both_leaves_to_the_root(sandbox: RunningSandbox) -> None:
    account = sandbox.credentials["alipay_certificate"]
    leaf, intermediate = x509.load_pem_x509_certificates(account["alipay_certificate"].encode())
    app = x509.load_pem_x509_certificate(account["app_certificate"].encode())
    roots = x509.load_pem_x509_certificates(account["alipay_root_certificate"].encode())

    leaf.verify_directly_issued_by(intermediate)
    app.verify_directly_issued_by(intermediate)
    [root] = [one for one in roots if isinstance(one.public_key(), rsa.RSAPublicKey)]
    intermediate.verify_directly_issued_by(root)

    assert len(roots) == 2
    assert any(isinstance(one.public_key(), ec.EllipticCurvePublicKey) for one in roots)
    assert account["alipay_root_cert_sn"] == _number(root)
    assert account["app_cert_sn"] == _number(app)
    assert account["alipay_cert_sn"] == _number(leaf)


def _number(certificate: x509.Certificate) -> str:
    """Written out once more from the published rule."""
    names = dict(part.rfc4514_string().split("=", 1) for part in certificate.issuer.rdns)
    issuer = f"CN={names['CN']},OU={names['OU']},O={names['O']},C={names['C']}"
    return hashlib.md5(f"{issuer}{certificate.serial_number}".encode()).hexdigest()  # noqa: S324 -- theirs


def test_the_app_key_belongs_to_the_app_certificate(sandbox: RunningSandbox) -> None:
    account = sandbox.credentials["alipay_certificate"]
    key = x509.load_pem_x509_certificate(account["app_certificate"].encode()).public_key()
    public_pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    signature = rsa_sign(account["app_private_key"], b"mine")

    assert is_signed(public_pem, b"mine", signature)
