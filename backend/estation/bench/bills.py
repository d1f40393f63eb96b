"""Fee bills as a city issues them: made by number from a seed, no two alike, never kept whole."""

import random
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Final

from estation.outside.gate.rows import FeeBillRow, FeeItemRow, PartyRow
from estation.shared.identity_papers import RESIDENT_CARD, card_check_digit

SOURCE: Final = "bench-center"
STREAM: Final = f"{SOURCE}-online"
PAYEES: Final = ("treasury", "non_tax", "maintenance_fund")
_SEED: Final = 20_260_302
_BLOCK: Final = 1000
"""Each block of numbers has dice of its own, so that any part can be made alone."""
_SEEN_BEFORE: Final = 0.25
"""So many payers have had another bill already."""

_SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高罗郑梁谢宋唐许邓冯韩曹曾彭萧蔡潘田董袁于余叶蒋杜"
_GIVEN = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超霞平刚桂英华玉兰文建国志远思雨梓涵浩然子轩欣怡佳宁晓东海燕春梅"
    "立新凯旋若曦俊峰雪莹嘉懿书瑶鸿飞景行"
)
_REGIONS = ("360102", "360103", "360121")

_Kind = tuple[str, str, str, str, int]
"""Code, name, payee, legal basis, rate in basis points (0: a fixed fee)."""
_DEED: _Kind = (
    "DEED",
    "契税",
    "treasury",
    "契税法第三条；财政部 税务总局 住建部公告2024年第16号",
    150,
)
_BUYER: tuple[_Kind, ...] = (
    ("STAMP", "印花税", "treasury", "印花税法；财税〔2008〕137号", 0),
    ("REG", "不动产登记费", "non_tax", "发改价格规〔2016〕2559号；财税〔2016〕79号", 0),
    ("MAINT", "住宅专项维修资金", "maintenance_fund", "住宅专项维修资金管理办法第七条", 0),
)
_VAT: _Kind = ("VAT", "增值税", "treasury", "增值税法；财政部 税务总局公告2025年第17号", 300)
_SELLER: tuple[_Kind, ...] = (
    ("PIT", "个人所得税", "treasury", "个人所得税法第三条、第六条；国税发〔2006〕108号", 100),
    ("UCMT", "城市维护建设税", "treasury", "城市维护建设税法第四条", 21),
    ("EDU", "教育费附加", "treasury", "征收教育费附加的暂行规定", 9),
)


def bills(first: int, last: int, *, now: datetime) -> Iterator[FeeBillRow]:
    """Bills first..last-1; a number is always the same bill. `first` begins a block."""
    for start in range(first, last, _BLOCK):
        dice = random.Random(_SEED + start)  # noqa: S311 - believable, not secret
        for number in range(start, min(start + _BLOCK, last)):
            yield _bill(number, dice, now)


def _bill(number: int, dice: random.Random, now: datetime) -> FeeBillRow:
    """Even numbers are the buyer's, odd ones the seller's of the same case."""
    case, is_seller = divmod(number, 2)
    seen_before = number > _BLOCK and dice.random() < _SEEN_BEFORE
    payer = dice.randrange(number) if seen_before else number
    price = dice.randrange(30_000_000, 900_000_000)
    main, others = (_VAT, _SELLER) if is_seller else (_DEED, _BUYER)
    items = [
        _item(seq, kind, price, dice)
        for seq, kind in enumerate((main, *others[: dice.randrange(1, 4)]), 1)
    ]
    issued = now - timedelta(seconds=dice.randrange(90 * 86_400))
    return FeeBillRow(
        source=SOURCE,
        source_id=f"JF{number:010d}",
        version=1,
        region=dice.choice(_REGIONS),
        bill_no=f"36{dice.randrange(10**6):06d}{number:010d}",
        case_source_id=f"SL2026{case:09d}",
        title="存量房买卖税费（卖方）" if is_seller else "存量房买卖税费（买方）",
        payer=_person(payer, "seller" if is_seller else "buyer"),
        state="issued",
        issued_at=issued,
        due_on=(issued + timedelta(days=15)).date(),
        total_fen=sum(item.amount_fen for item in items),
        items=items,
    )


def _item(seq: int, kind: _Kind, price: int, dice: random.Random) -> FeeItemRow:
    code, name, payee, legal_basis, rate = kind
    amount = price * rate // 10_000 if rate else dice.randrange(100, 2_000_000)
    relief = amount // 2 if rate and dice.random() < 0.3 else 0
    return FeeItemRow(
        seq=seq,
        code=code,
        name=name,
        payee_code=payee,
        base_fen=price if rate else None,
        rate=f"{rate / 100:g}%" if rate else "",
        relief_fen=relief,
        amount_fen=amount - relief,
        formula=f"{price / 100:,.2f} 元 × {rate / 100:g}%" if rate else "按件（按面积）计收",
        legal_basis=legal_basis,
        note="个人购买家庭唯一住房减半征收" if relief else "",
    )


def _person(number: int, role: str) -> PartyRow:
    """A person is a number, so that whoever was seen before can be made again."""
    dice = random.Random(number)  # noqa: S311 - believable, not secret
    born = date(1950, 1, 1) + timedelta(days=dice.randrange(55 * 365))
    # Ten million different people: the place and the day repeat, the whole number does not.
    first = f"{_REGIONS[number % 3]}{born:%Y%m%d}{number % 1000:03d}"
    first = f"{36 + number // 1000 % 20:02d}{100 + number // 20_000 % 900:03d}1{first[6:]}"
    return PartyRow(
        role=role,
        name=dice.choice(_SURNAMES) + "".join(dice.sample(_GIVEN, dice.choice((1, 2, 2, 2)))),
        id_type=RESIDENT_CARD,
        id_no=first + card_check_digit(first),
        phone=f"1{dice.choice('3578')}{number % 10**9:09d}",
    )
