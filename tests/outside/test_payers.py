"""What names a payer is sealed, whatever message it stands in and however deep."""

import hashlib
import json
from typing import Any

import orjson
import pytest

from estation.outside.pay_channels import VerifiedNotice
from estation.outside.pay_channels.payers import is_sealed, open_payers, seal_payers
from estation.shared.crypto import Vault
from tests.outside.counterparts import (
    NOW,
    VAULT,
    WechatNotice,
    alipay_channel,
    alipay_form,
    alipay_notice,
    combined_channel,
    combined_order,
    transaction,
    wechat_pay_channel,
)

OPENID = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"
BUYER, LOGON = "2088102177891440", "lin***@example.com"


def wechat(plaintext: dict[str, Any], kind: str = "TRANSACTION.SUCCESS") -> VerifiedNotice:
    headers, body = WechatNotice(plaintext, event_type=kind).sent()
    channel = combined_channel() if "combine_mchid" in plaintext else wechat_pay_channel()
    return channel.open_notice(headers, body, now=NOW)


def alipay(**changes: str) -> VerifiedNotice:
    return alipay_channel().open_notice(*alipay_form(alipay_notice(**changes)), now=NOW)


NEWS = {
    "paid by WeChat": lambda: wechat(transaction()),
    "paid in parts": lambda: wechat(combined_order()),
    "unreadable": lambda: wechat(transaction(amount={"total": "8"})),
    "unreadable in parts": lambda: wechat(combined_order(sub_orders=[])),
    "of a kind nobody knew": lambda: wechat(transaction(), "SOMETHING.NEW"),
    "with the payer elsewhere": lambda: wechat(
        transaction(payer=OPENID, detail=[{"sub_openid": OPENID, "list": [[{"unionid": OPENID}]]}])
    ),
    "paid by Alipay": alipay,
    "unreadable at Alipay": lambda: alipay(total_amount=""),
    "of another kind at Alipay": lambda: alipay(notify_type="x"),
    "a refund at Alipay": lambda: alipay(out_biz_no="R1", refund_fee="1.00", gmt_refund="x"),
}


@pytest.mark.parametrize("name", NEWS)
def test_news_that_left_its_channel_names_nobody_in_clear_words(name: str) -> None:
    notice = NEWS[name]()

    kept = repr(notice)
    opened = repr(open_payers(VAULT, notice.plaintext))
    assert not any(clear in kept for clear in (OPENID, BUYER, LOGON))
    assert OPENID in opened or (BUYER in opened and LOGON in opened)


def test_all_else_in_the_message_stays_as_it_came() -> None:
    notice = wechat(transaction(attach="keep"))

    assert notice.report is not None
    assert {**notice.plaintext, "payer": None} == {**transaction(attach="keep"), "payer": None}
    assert notice.report.raw is notice.plaintext


def test_news_is_known_again_by_its_clear_words() -> None:
    """Two deliveries seal differently: a key made of sealed words would make them two news."""
    said = transaction()
    digest = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()

    first, again = wechat(said, "SOMETHING.NEW"), wechat(said, "SOMETHING.NEW")
    unread = [wechat(transaction(amount={"total": "8"})).event_key for _ in range(2)]
    elsewhere = [alipay(notify_type="x").event_key for _ in range(2)]

    assert first.plaintext != again.plaintext
    assert first.event_key == again.event_key == f"SOMETHING.NEW:{digest}"
    assert unread[0] == unread[1]
    assert elsewhere[0] == elsewhere[1]


def test_what_is_sealed_stays_as_it_is_and_only_its_key_opens_it() -> None:
    said: dict[str, Any] = {"buyer_id": BUYER, "open_id": "", "user_id": None, "unionid": 208810}

    seal_payers(VAULT, said)
    once = dict(said)
    seal_payers(VAULT, said)

    assert said == once
    assert is_sealed(said["buyer_id"])
    assert json.loads(json.dumps(said)) == said
    assert open_payers(VAULT, said) == {
        "buyer_id": BUYER, "open_id": "", "user_id": None, "unionid": "208810",
    }  # fmt: skip
    assert open_payers(Vault(b"x" * 32), said) == said


@pytest.mark.parametrize("broken", ["sealed:1:", "sealed:1:%%%", "sealed:1:AAAA", "sealed:9:AAAA"])
def test_a_token_that_no_key_opens_stays_as_it_is(broken: str) -> None:
    assert open_payers(VAULT, {"openid": broken}) == {"openid": broken}
