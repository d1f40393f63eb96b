"""Published test data of other implementations, read where they lie and never copied.

They stand in the folder `shared/vectors` beside the repository, or where ESTATION_SHARED says.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.outside.pay_channels import NoticeRejected, ParsedBill
from estation.outside.pay_channels.alipay import bills as alipay_bills
from estation.outside.pay_channels.alipay.certificates import (
    _is_issued,
    certificate_sn,
    read_certificates,
    root_sn,
)
from estation.outside.pay_channels.alipay.keys import KeyMode, own_with_key
from estation.outside.pay_channels.alipay.notices import read_notice
from estation.outside.pay_channels.alipay.signing import Application, believed_node, top_level
from estation.outside.pay_channels.believing import (
    Disbelief,
    load_private_key,
    load_public_key,
    sign,
    verify,
)
from estation.outside.pay_channels.wechat_pay import bills as wechat_bills
from estation.outside.pay_channels.wechat_pay.platform_keys import (
    PlatformKey,
    PlatformKeys,
    certificates_in,
)
from estation.outside.pay_channels.wechat_pay.resources import open_resource
from estation.outside.pay_channels.wechat_pay.signing import check_signature
from estation.shared.key_files import KeyFiles
from tests.outside.counterparts import NOW, VAULT, private_pem, wechat_pay_channel

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("ESTATION_SHARED", ROOT.parent / "shared"))
VECTORS = SHARED / "vectors"
pytestmark = pytest.mark.skipif(
    not VECTORS.is_dir(), reason=f"no published vectors in {VECTORS} (see ESTATION_SHARED)"
)


def vector(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def keys_with(serial: str, pem: str) -> PlatformKeys:
    return PlatformKeys({serial: PlatformKey(load_public_key(pem.encode()))})


def reason(check: Any) -> str | None:
    """Why our code does not believe it; None when it does."""
    try:
        check()
    except Disbelief as disbelief:
        return disbelief.reason
    return None


def test_wechatpay_go_a_notice_is_believed_at_its_time_only() -> None:
    case = vector("wx_v3_notify_go.json")
    headers, body = lower(case["headers"]), case["body"].encode()
    keys = keys_with(headers["wechatpay-serial"], case["platform_certificate_pem"])
    then = datetime.fromtimestamp(case["clock_unix"], UTC)

    def verdict(body: bytes, now: datetime) -> str | None:
        return reason(lambda: check_signature(keys, headers, body, now=now))

    assert verdict(body, then) is None
    assert verdict(body, datetime(2026, 3, 1, tzinfo=UTC)) == "stale"
    assert verdict(body.replace(b"PAYSCORE", b"PAYSCORF"), then) == "bad_signature"
    assert verdict(json.dumps(json.loads(body)).encode(), then) == "bad_signature"


def test_wechatpay_go_a_resource_is_decrypted() -> None:
    # Upstream's key has 16 bytes; a real APIv3 key has 32 and from_settings insists on it.
    case = vector("wx_v3_notify_go.json")
    resource = json.loads(case["body"])["resource"]

    plaintext = open_resource(AESGCM(case["api_v3_key"].encode()), resource)

    assert plaintext.decode() == case["expect"]["plaintext"]


@pytest.mark.parametrize("name", ["wx_v3_certificates_go.json", "wx_v3_certificates_java.json"])
def test_platform_certificates_are_decrypted(name: str) -> None:
    case = vector(name)

    found = certificates_in(case["response_body"].encode(), AESGCM(case["api_v3_key"].encode()))

    assert list(found) == [case["expect"]["serial_no"]]


def test_every_gcm_case_is_a_plaintext_or_a_disbelief() -> None:
    cases = vector("wx_v3_aes_gcm.json")["cases"]

    for case in cases:
        resource = {
            "algorithm": "AEAD_AES_256_GCM",
            "ciphertext": case["ciphertext"],
            "nonce": case["nonce"],
            "associated_data": case["aad"],
        }
        cipher = AESGCM(case["key"].encode())
        if case["expect_plaintext"] is None:
            with pytest.raises(Disbelief, match="undecryptable"):
                open_resource(cipher, resource)
        else:
            assert open_resource(cipher, resource).decode() == case["expect_plaintext"]
    assert len(cases) == 14


def test_rsa_signatures_are_made_and_judged_as_published() -> None:
    cases = vector("wx_v3_rsa_sha256.json")["cases"]

    for case in cases:
        message = case["message"].encode()
        if "private_key_pem" in case:
            private = load_private_key(case["private_key_pem"].encode())
            assert sign(private, message) == case["expect_signature"]
        else:
            public = load_public_key(
                (case.get("certificate_pem") or case["public_key_pem"]).encode()
            )
            why = reason(lambda p=public, c=case, m=message: verify(p, m, c["signature"]))
            assert why == (None if case["expect_valid"] else "bad_signature")


def test_yansongda_signatures_hold_over_the_raw_bytes() -> None:
    case = vector("wx_v3_signed_php.json")

    for signed in case["cases"]:
        headers, body = lower(signed["headers"]), signed["body"].encode()
        keys = keys_with(headers["wechatpay-serial"], case["verify_key_pem"])
        then = datetime.fromtimestamp(int(headers["wechatpay-timestamp"]), UTC)
        check_signature(keys, headers, body, now=then)
        redumped = json.dumps(json.loads(body), separators=(",", ":")).encode()
        if redumped != body:
            with pytest.raises(Disbelief, match="bad_signature"):
                check_signature(keys, headers, redumped, now=then)
    resource = json.loads(case["cases"][0]["body"])["resource"]
    plaintext = open_resource(AESGCM(case["api_v3_key"].encode()), resource)
    assert b"BEGIN CERTIFICATE" in plaintext


def test_signtest_probes_are_refused_without_an_accident() -> None:
    go = vector("wx_v3_notify_go.json")
    channel = wechat_pay_channel()

    for case in vector("wx_v3_signtest_negative.json")["cases"]:
        headers, body = lower(case["headers"]), case["body"].encode()
        now = datetime.fromtimestamp(int(headers["wechatpay-timestamp"]), UTC)
        # With a key under that very serial, so that it is the signature that fails.
        keys = keys_with(headers["wechatpay-serial"], go["platform_certificate_pem"])
        with pytest.raises(Disbelief, match="bad_signature"):
            check_signature(keys, headers, body, now=now)
        with pytest.raises(NoticeRejected) as rejected:
            channel.open_notice(headers, body, now=now)
        assert rejected.value.status >= 400


def trade_bill(name: str) -> ParsedBill:
    return wechat_bills.parse_trade_bill((VECTORS / name).read_bytes())


def test_a_real_trade_bill_is_proven_by_its_summary() -> None:
    bill = trade_bill("wx_bill_ALL_2019-02-19.csv")

    assert bill.is_proven
    assert len(bill.rows) == 45
    assert sum(row.kind == "payment" for row in bill.rows) == 31
    assert sum(row.amount_fen for row in bill.rows if row.kind == "payment") == 47
    assert sum(row.amount_fen for row in bill.rows if row.kind == "refund") == 14
    assert all(row.refund_no for row in bill.rows if row.kind == "refund")
    assert set(bill.proof) == {
        "总交易单数",
        "应结订单总金额",
        "退款总金额",
        "充值券退款总金额",
        "手续费总金额",
        "订单总金额",
        "申请退款总金额",
    }


@pytest.mark.parametrize(
    "name",
    [
        "wx_bill_ALL_wxjava.csv",
        "wx_bill_SUCCESS.csv",
        "wx_bill_REFUND.csv",
        "wx_bill_ALL_legacy24.csv",
    ],
)
def test_other_layouts_are_read(name: str) -> None:
    bill = trade_bill(name)

    assert bill.rows
    if name != "wx_bill_ALL_legacy24.csv":
        assert not bill.is_proven  # Upstream cut the rows: the summary must not hold.


def test_a_fund_flow_bill_is_a_table_but_no_trade_bill() -> None:
    raw = (VECTORS / "wx_bill_FUNDFLOW_doc.csv").read_bytes()

    table = wechat_bills.read_table(raw)

    assert len(table.header) == 11
    assert "资金流水总笔数" in table.summary
    with pytest.raises(ValueError, match="line 1"):
        wechat_bills.parse_trade_bill(raw)


def application(public: RSAPublicKey, fields: dict[str, str]) -> Application:
    return Application(
        account_id="alipay:published",
        app_id=fields["app_id"],
        seller_id=fields["seller_id"],
        gateway_url="",
        bill_hosts=frozenset(),
        own=KeyFiles(lambda _: private_pem("merchant")).watch("own", parse=own_with_key),
        alipay=KeyMode(KeyFiles(lambda _: b"").watch("alipay", parse=lambda _: (public,))),
        vault=VAULT,
    )


def form(fields: dict[str, str]) -> tuple[dict[str, str], bytes]:
    body = "&".join(f"{name}={quote_plus(value)}" for name, value in fields.items())
    return {"content-type": "application/x-www-form-urlencoded"}, body.encode()


def alipay_certificate() -> tuple[RSAPublicKey, dict[str, Any]]:
    case = vector("alipay_yansongda.json")
    pem = case["certs"]["alipayPublicCert.crt"].encode()
    public = x509.load_pem_x509_certificate(pem).public_key()
    assert isinstance(public, RSAPublicKey)
    return public, case


def test_a_real_alipay_notice_is_believed() -> None:
    public, case = alipay_certificate()
    fields = case["notify_params"]

    notice = read_notice(application(public, fields), *form(fields), now=NOW)

    assert notice.out_trade_no == fields["out_trade_no"]
    assert notice.plaintext["subject"] == fields["subject"]
    assert notice.report is not None
    assert notice.report.paid_fen == 1


def test_a_real_alipay_notice_to_somebody_else_is_not() -> None:
    public, case = alipay_certificate()
    fields = case["notify_params"]
    other = application(public, {**fields, "seller_id": "2088000000000000"})

    with pytest.raises(Disbelief, match="wrong_addressee"):
        read_notice(other, *form(fields), now=NOW)
    with pytest.raises(Disbelief, match="bad_signature"):
        read_notice(application(public, fields), *form({**fields, "total_amount": "0.02"}), now=NOW)


def test_a_page_return_has_the_same_signature_but_is_no_notice() -> None:
    public, case = alipay_certificate()
    query = urlsplit(case["return_url"]).query.encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    owner = application(public, case["notify_params"])

    with pytest.raises(Disbelief, match="malformed: notify_type"):
        read_notice(owner, headers, query, now=NOW)


def test_alipay_answers_are_believed_over_their_exact_bytes() -> None:
    public, yansongda = alipay_certificate()
    gopay = vector("alipay_gopay.json")
    gopay_key = load_public_key(gopay["alipay_public_key_b64"].encode())

    for owner, answer in (
        (public, yansongda["sync_response"]),
        (gopay_key, gopay["sync_response"]),
    ):
        body = f'{{"x_response":{answer["sign_content"]},"sign":"{answer["sign"]}"}}'
        spans = top_level(body.encode())
        assert believed_node((owner,), "x_response", spans)["code"] == "10000"
        altered = top_level(body.replace('"0.01"', '"0.02"').encode())
        with pytest.raises(Disbelief, match="bad_signature"):
            believed_node((owner,), "x_response", altered)


def test_alipay_certificates_have_the_published_numbers() -> None:
    case = vector("alipay_cert_sn.json")
    own, *_ = read_certificates(case["appPublicCert.crt"].encode())
    alipay, issuer = read_certificates(case["alipayPublicCert.crt"].encode())
    roots = read_certificates(case["alipayRootCert.crt"].encode())

    assert certificate_sn(own) == case["derived_here"]["app_cert_sn"]
    assert certificate_sn(alipay) == case["derived_here"]["alipay_cert_sn"]
    assert issuer.subject == alipay.issuer
    # Four stand there: one cannot be read, one is no RSA root.
    assert len(roots) == 3
    assert root_sn(roots) == case["expect"]["alipay_root_cert_sn"]


def test_a_certificate_signed_over_sha1_vouches_for_nothing() -> None:
    case = vector("alipay_cert_sn.json")
    _, ant, itrus = read_certificates(case["alipayRootCert.crt"].encode())

    assert _is_issued(ant, ant)
    assert not _is_issued(itrus, itrus)


def test_other_published_certificates_have_their_numbers_too() -> None:
    case = vector("alipay_yansongda.json")
    own, *_ = read_certificates(case["certs"]["alipayAppPublicCert.crt"].encode())
    roots = read_certificates(case["certs"]["alipayRootCert.crt"].encode())

    assert certificate_sn(own) == case["expect"]["app_cert_sn"]
    assert root_sn(roots) == case["expect"]["alipay_root_cert_sn"]


def test_invented_alipay_notices_are_refused() -> None:
    gopay = vector("alipay_gopay.json")
    public = load_public_key(gopay["alipay_public_key_b64"].encode())

    for name in ("notify_public_key", "notify_cert"):
        fields = {k: v for k, v in gopay[name].items() if isinstance(v, str)}
        with pytest.raises(Disbelief, match="bad_signature"):
            read_notice(application(public, fields), *form(fields), now=NOW)


def test_an_alipay_trade_bill_is_proven_by_its_footer() -> None:
    raw = (VECTORS / "alipay_bill_trade_SYNTHETIC.zip").read_bytes()

    bill = alipay_bills.parse_trade_bill(raw)

    assert bill.is_proven
    assert [row.kind for row in bill.rows] == ["payment"] * 3 + ["refund"] * 2
    assert sum(row.amount_fen for row in bill.rows if row.kind == "payment") == 123466790
    assert [row.refund_no for row in bill.rows if row.kind == "refund"] == [
        "RF20260301000001",
        "RF20260301000002",
    ]


def test_an_alipay_balance_bill_is_no_trade_bill() -> None:
    raw = (VECTORS / "alipay_bill_signcustomer_SYNTHETIC.zip").read_bytes()

    with pytest.raises(ValueError, match=r"."):
        alipay_bills.parse_trade_bill(raw)
