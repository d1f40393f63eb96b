"""A genuine notice of an open order, and what a forger does to signatures."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.outside.counterparts import (
    NOW,
    WechatNotice,
    alipay_form,
    alipay_notice,
    key,
    signed,
    transaction,
)

WECHAT_DOOR = "/notices/wechat-pay/1900000109"
ALIPAY_DOOR = "/notices/alipay/2021000000000109"
FORM = "application/x-www-form-urlencoded"
SECOND = int(NOW.timestamp())


@dataclass(frozen=True, slots=True)
class Forgery:
    """`on_wire_only`: the lie is in the address, the length or a header no dict can hold."""

    kind: str
    door: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    on_wire_only: bool = False

    def with_header(self, name: str, value: str) -> "Forgery":
        others = tuple(pair for pair in self.headers if pair[0] != name)
        return replace(self, headers=(*others, (name, value)))

    def without_header(self, name: str) -> "Forgery":
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0] != name))

    def header(self, name: str) -> str:
        return dict(self.headers)[name]


@dataclass(frozen=True)
class Genuine:
    """What the channels would truly say of one open order."""

    number: str
    fen: int

    @cached_property
    def wechat(self) -> Forgery:
        headers, body = WechatNotice(plaintext=self.transaction()).sent()
        return Forgery("", WECHAT_DOOR, tuple(headers.items()), body)

    @cached_property
    def alipay(self) -> Forgery:
        headers, body = alipay_form(self.fields())
        return Forgery("", ALIPAY_DOOR, tuple(headers.items()), body)

    def told_by_wechat(self, n: int, **changes: Any) -> Forgery:
        """Right in everything, or with these changes, about the n-th payment of this test."""
        money = {"transaction_id": f"4200002026030100000000{n:06d}", **changes}
        headers, body = WechatNotice(plaintext=self.transaction(**money)).sent()
        return Forgery("", WECHAT_DOOR, tuple(headers.items()), body)

    def told_by_alipay(self, n: int, **changes: str) -> Forgery:
        """As `told_by_wechat`."""
        money = {"trade_no": f"2026030122001400000000{n:06d}", **changes}
        headers, body = alipay_form(self.fields(**money))
        return Forgery("", ALIPAY_DOOR, tuple(headers.items()), body)

    def transaction(self, **changes: Any) -> dict[str, Any]:
        amount = {"total": self.fen, "payer_total": self.fen, "currency": "CNY"}
        return transaction(**{"out_trade_no": self.number, "amount": amount, **changes})

    def fields(self, **changes: str) -> dict[str, str]:
        yuan = f"{self.fen // 100}.{self.fen % 100:02d}"
        return alipay_notice(**{"out_trade_no": self.number, "total_amount": yuan, **changes})


Maker = Callable[[Random, "Genuine"], Forgery]


# Signatures, for both channels.

WEAK_OR_OTHER = (hashes.SHA1(), hashes.MD5(), hashes.SHA512(), hashes.SHA224())  # noqa: S303


def spoilt_signature(chance: Random, right: str, message: bytes, signer: str) -> str:
    """Anything but `right`; no white space at the ends, which a header loses on its way."""
    return chance.choice(SPOILT)(chance, right, message, signer)


def _bit_flipped(chance: Random, right: str) -> str:
    raw = bytearray(base64.b64decode(right))
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return b64(bytes(raw))


def _with_stranger_inside(chance: Random, right: str) -> str:
    at = chance.randrange(1, len(right) - 1)
    return right[:at] + chance.choice([" ", "\t", "=", "  ", "-", "%", "."]) + right[at:]


def _pss(chance: Random, message: bytes, signer: str) -> str:
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), chance.choice([0, 20, 32]))
    return b64(key(signer).sign(message, scheme, hashes.SHA256()))


def _noise(chance: Random) -> str:
    return "".join(chance.choice("!@#$%^*(){}[]中é~") for _ in range(chance.randrange(1, 400)))


SPOILT: tuple[Callable[[Random, str, bytes, str], str], ...] = (
    lambda chance, right, message, signer: _bit_flipped(chance, right),
    lambda chance, right, message, signer: right[: chance.randrange(1, len(right) - 4)],
    lambda chance, right, message, signer: signed("a stranger", message),
    # Our own key: what an echo of our requests would carry.
    lambda chance, right, message, signer: signed("merchant", message),
    lambda chance, right, message, signer: signed(signer, message, chance.choice(WEAK_OR_OTHER)),
    lambda chance, right, message, signer: _pss(chance, message, signer),
    lambda chance, right, message, signer: "WECHATPAY/SIGNTEST/" + b64(chance.randbytes(250)),
    lambda chance, right, message, signer: "WECHATPAY/SIGNTEST/" + right[: 353 - 19],
    lambda chance, right, message, signer: (right + "A" * 20)[:353],
    lambda chance, right, message, signer: _noise(chance),
    lambda chance, right, message, signer: _with_stranger_inside(chance, right),
    lambda chance, right, message, signer: b64(right.encode()),
    lambda chance, right, message, signer: b64(chance.randbytes(256)),
    lambda chance, right, message, signer: base64.b64decode(right).hex(),
)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
