"""What citizen pages show of bills and orders, in the words a citizen reads. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Protocol

from estation.outside.pay_channels import Channel, Scene
from estation.settings import Payee

WALLETS = {Channel.WECHAT_PAY: "微信", Channel.ALIPAY: "支付宝"}

ATTEMPT_NAMES = {
    Scene.NATIVE: "微信扫码付款",
    Scene.JSAPI: "微信支付",
    Scene.MINI_PROGRAM: "微信小程序支付",
    Scene.H5: "微信付款",
    Scene.PRECREATE: "支付宝扫码付款",
    Scene.WAP: "支付宝付款",
    Scene.PAGE: "支付宝网页付款",
    Scene.TRADE_CREATE: "支付宝小程序支付",
}


class Item(Protocol):
    """What we need of a bill's item."""

    @property
    def name(self) -> str: ...
    @property
    def payee_code(self) -> str: ...
    @property
    def base_fen(self) -> int | None: ...
    @property
    def rate(self) -> str: ...
    @property
    def relief_fen(self) -> int: ...
    @property
    def amount_fen(self) -> int: ...
    @property
    def formula(self) -> str: ...
    @property
    def legal_basis(self) -> str: ...
    @property
    def note(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Line:
    """One tax or fee, ready to be read."""

    name: str
    amount_fen: int
    base_fen: int | None
    rate_words: str
    relief_fen: int
    formula: str
    legal_basis: str
    note: str
    zero_word: str


@dataclass(frozen=True, slots=True)
class PayeeGroup:
    """What goes to one payee."""

    name: str
    subtotal_fen: int
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class WalletChoice:
    """One button on the pay page."""

    channel: Channel
    scene: Scene
    label: str
    hint: str = ""


def payee_groups(items: Iterable[Item], payees: Sequence[Payee]) -> list[PayeeGroup]:
    """Items by payee in the order they first come; items due before exempt ones in each.

    The subtotals add up to the bill, since every item is in exactly one group.
    """
    known = {payee.code: payee for payee in payees}
    by_payee: dict[str, list[Item]] = {}
    for item in items:
        by_payee.setdefault(item.payee_code, []).append(item)
    groups = []
    for code, members in by_payee.items():
        payee = known.get(code)
        members.sort(key=lambda item: item.amount_fen == 0)
        groups.append(
            PayeeGroup(
                name=payee.name if payee else code,
                subtotal_fen=sum(item.amount_fen for item in members),
                lines=[_line(item, payee) for item in members],
            )
        )
    groups.sort(key=lambda group: group.subtotal_fen == 0)
    return groups


def _line(item: Item, payee: Payee | None) -> Line:
    return Line(
        name=item.name,
        amount_fen=item.amount_fen,
        base_fen=item.base_fen,
        rate_words=rate_words(item.rate),
        relief_fen=item.relief_fen,
        formula=item.formula,
        legal_basis=item.legal_basis,
        note=item.note,
        zero_word="免征" if payee is None or payee.kind == "treasury" else "免收",
    )


def rate_words(rate: str) -> str:
    """ "0.015" -> "1.5%"; "0" says nothing; a standard such as "80.00元/件" stays as it is."""
    try:
        percent = Decimal(rate) * 100
    except InvalidOperation:
        return rate
    if not percent.is_finite() or percent == 0:
        return ""
    return f"{percent.normalize():f}%"


def wallet_choices(user_agent: str, *, has_openid: bool) -> list[WalletChoice]:
    """The ways to pay where the payer stands, best first.

    Inside WeChat its own pay sheet (needs the openid of a WeChat login); inside Alipay Alipay's
    page; in a telephone's browser both wallets' pages, on a computer also Alipay's; a QR code for
    a second device always. The mini-programs' scenes belong to their own front ends, which use
    the JSON interface.
    """
    wechat_qr = WalletChoice(
        Channel.WECHAT_PAY, Scene.NATIVE, "微信扫码付款", "出示二维码，用另一部手机扫"
    )
    alipay_qr = WalletChoice(
        Channel.ALIPAY, Scene.PRECREATE, "支付宝扫码付款", "出示二维码，用另一部手机扫"
    )
    alipay_here = WalletChoice(Channel.ALIPAY, Scene.WAP, "支付宝付款", "在这部手机上付款")
    wechat_here = WalletChoice(Channel.WECHAT_PAY, Scene.H5, "微信付款", "在这部手机上付款")
    alipay_page = WalletChoice(
        Channel.ALIPAY, Scene.PAGE, "支付宝网页付款", "在这台电脑上登录支付宝付款"
    )
    if in_wechat(user_agent):
        here = [WalletChoice(Channel.WECHAT_PAY, Scene.JSAPI, "微信支付", "在这部手机上付款")]
        return [*(here if has_openid else []), wechat_qr, alipay_qr]
    if "AlipayClient" in user_agent:
        return [alipay_here, alipay_qr, wechat_qr]
    if any(mark in user_agent for mark in ("Mobile", "Android", "iPhone")):
        return [wechat_here, alipay_here, wechat_qr, alipay_qr]
    return [wechat_qr, alipay_qr, alipay_page]


def stands_in(user_agent: str) -> str:
    """Where the page is open: wechat, alipay or elsewhere."""
    if in_wechat(user_agent):
        return "wechat"
    return "alipay" if "AlipayClient" in user_agent else "elsewhere"


def in_wechat(user_agent: str) -> bool:
    return "MicroMessenger" in user_agent


@dataclass(frozen=True, slots=True)
class PayeeSum:
    """One payee's share of what is being paid."""

    name: str
    amount_fen: int


class Split(Protocol):
    @property
    def payee_name(self) -> str: ...
    @property
    def amount_fen(self) -> int: ...


def payee_sums(splits: Iterable[Split]) -> list[PayeeSum]:
    """Splits of several bills added up per payee, zero ones left out."""
    sums: dict[str, int] = {}
    for split in splits:
        sums[split.payee_name] = sums.get(split.payee_name, 0) + split.amount_fen
    return [PayeeSum(name, fen) for name, fen in sums.items() if fen]


@dataclass(frozen=True, slots=True)
class Deadline:
    """How long an order in progress may still be paid; the countdown starts from it."""

    at: datetime
    seconds_left: int

    @property
    def minutes_left(self) -> int:
        """For whoever has no script; the last minute is one."""
        return max(1, self.seconds_left // 60)


def deadline_of(expires_at: datetime, *, now: datetime) -> Deadline:
    return Deadline(expires_at, max(0, int((expires_at - now).total_seconds())))
