"""Lies about combined payments, at the door of the merchant that combined them."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

from tests.forgery.forging import Forgery, Genuine, Maker
from tests.forgery.wechat_lies import WECHAT, envelope, rightly_signed
from tests.outside.counterparts import (
    COMBINE_MCHID,
    WechatNotice,
    combined_order,
    sealed,
    sub_order,
    transaction,
)

COMBINE_DOOR = f"/notices/wechat-combine/{COMBINE_MCHID}"


@dataclass(frozen=True)
class Combined(Genuine):
    """What WeChat Pay would truly say of one order that pays two payees at once."""

    @cached_property
    def wechat(self) -> Forgery:
        headers, body = WechatNotice(plaintext=self.transaction()).sent()
        return Forgery("", COMBINE_DOOR, tuple(headers.items()), body)

    def transaction(self, **changes: Any) -> dict[str, Any]:
        parts = [self.part(1), self.part(2, mchid="1900000112", transaction_id="4200" + "9" * 24)]
        whole = {"combine_out_trade_no": self.number, "sub_orders": parts}
        return combined_order(**{**whole, **changes})

    def part(self, n: int, **changes: Any) -> dict[str, Any]:
        fen = self.fen - 1 if n == 1 else 1
        amount = {"total_amount": fen, "currency": "CNY", "payer_amount": fen}
        return sub_order(**{"out_trade_no": f"{self.number}-0{n}", "amount": amount, **changes})


def of_the_whole(maker: Maker) -> Maker:
    """The same lie, told of a combined payment."""
    return lambda chance, genuine: maker(chance, Combined(genuine.number, genuine.fen))


def _addressee(chance: Random, genuine: Genuine) -> Forgery:
    """Another merchant's combined payment, or parts of payees that are not ours."""
    whole = Combined(genuine.number, genuine.fen)
    other = str(chance.randrange(10**9, 10**10))
    changes: list[dict[str, Any]] = [
        {"combine_mchid": other}, {"combine_mchid": None}, {"combine_mchid": [COMBINE_MCHID]},
        {"combine_mchid": int(COMBINE_MCHID)}, {"combine_mchid": f"{COMBINE_MCHID} "},
        {"combine_mchid": "1900000109"}, {"combine_mchid": "1900000111"},
        {"combine_appid": f"wx{other}"}, {"combine_appid": None}, {"combine_appid": ""},
        {"sub_orders": [whole.part(1), whole.part(2, mchid=other)]},
        {"sub_orders": [whole.part(1, mchid=other)]},
        {"sub_orders": [whole.part(1), whole.part(2, mchid=None)]},
        {"sub_orders": [whole.part(1), whole.part(2, mchid=1900000112)]},
        # The account that combines is no payee, and the collecting one none of these.
        {"sub_orders": [whole.part(1, mchid=COMBINE_MCHID)]},
    ]  # fmt: skip
    return _told(whole, whole.transaction(**chance.choice(changes)))


def _single(chance: Random, genuine: Genuine) -> Forgery:
    """A payment of one payee's own, true at its own door."""
    whole = Combined(genuine.number, genuine.fen)
    mchid = chance.choice(["1900000109", "1900000111", "1900000112"])
    return _told(whole, transaction(out_trade_no=genuine.number, mchid=mchid))


def _told(whole: Combined, plaintext: dict[str, Any]) -> Forgery:
    return rightly_signed(whole.wechat, envelope(sealed(json.dumps(plaintext).encode())))


def _at_a_payees_door(chance: Random, genuine: Genuine) -> Forgery:
    """The whole, true at the door of the merchant that combined it."""
    whole = Combined(genuine.number, genuine.fen)
    mchid = chance.choice(["1900000109", "1900000111", "1900000112"])
    return replace(whole.wechat, door=f"/notices/wechat-pay/{mchid}")


COMBINED: dict[str, Maker] = {
    **{name: of_the_whole(maker) for name, maker in WECHAT.items() if name != "signed addressee"},
    "signed addressee": _addressee,
    "a single payment": _single,
    "at a payee's door": _at_a_payees_door,
}
