"""Thousands of ways to lie about a payment, from one seed; each is refused by somebody's duty.

A forgery starts from a genuine notice of a real open order and spoils one thing. What the right
platform really signed but nobody may believe (another merchant's money, another key's
encryption) is signed here with the right key, so that the refusal comes from the check that is
meant and not from the signature before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from tests.forgery.alipay_lies import ALIPAY
from tests.forgery.combined_lies import COMBINED
from tests.forgery.forging import (
    Forgery,
    Genuine,
    Maker,
)
from tests.forgery.wechat_lies import WECHAT
from tests.forgery.wire_lies import WIRE


def corpus(
    seed: int, orders: Sequence[Genuine], *, per_kind: int, xml: Sequence[bytes]
) -> list[Forgery]:
    """`per_kind` forgeries of every kind, in an order of their own."""
    chance = Random(seed)  # noqa: S311 -- a repeatable crowd of liars
    made = [
        replace(maker(chance, chance.choice(orders)), kind=kind)
        for kind, maker in makers(xml).items()
        for _ in range(per_kind)
    ]
    chance.shuffle(made)
    return made


def makers(xml: Sequence[bytes]) -> dict[str, Maker]:
    """Kind -> how it is made."""
    return {
        **{f"wechat: {name}": maker for name, maker in WECHAT.items()},
        **{f"combined: {name}": maker for name, maker in COMBINED.items()},
        **{f"alipay: {name}": maker for name, maker in ALIPAY.items()},
        "wechat: xml": lambda chance, genuine: _xml(chance, genuine.wechat, xml),
        "alipay: xml": lambda chance, genuine: _xml(chance, genuine.alipay, xml),
    }


def wire_corpus(seed: int, orders: Sequence[Genuine], *, per_kind: int) -> list[Forgery]:
    """Lies that only exist on the wire."""
    chance = Random(seed)  # noqa: S311 -- a repeatable crowd of liars
    return [
        replace(maker(chance, chance.choice(orders)), kind=f"wire: {name}", on_wire_only=True)
        for name, maker in WIRE.items()
        for _ in range(per_kind)
    ]


def _xml(chance: Random, genuine: Forgery, files: Sequence[bytes]) -> Forgery:
    return replace(genuine, body=chance.choice([*files, billion_laughs(), quadratic()]))


def billion_laughs() -> bytes:
    lines = [b'<?xml version="1.0"?>', b'<!DOCTYPE lolz [ <!ENTITY lol "lol">']
    for n in range(1, 10):
        inner = b"&lol%d;" % (n - 1) if n > 1 else b"&lol;"
        lines.append(b'<!ENTITY lol%d "%s">' % (n, inner * 10))
    return b"\n".join([*lines, b"]>", b"<xml><out_trade_no>&lol9;</out_trade_no></xml>"])


def quadratic() -> bytes:
    return b'<!DOCTYPE x [<!ENTITY a "%s">]><x>%s</x>' % (b"a" * 20_000, b"&a;" * 5_000)


def by_kind(forgeries: Sequence[Forgery]) -> Iterator[tuple[str, int]]:
    for kind in sorted({one.kind for one in forgeries}):
        yield kind, sum(one.kind == kind for one in forgeries)
