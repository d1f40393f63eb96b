"""Fictional names, numbers and addresses; check digits are right, people do not exist."""

import random
from collections.abc import Iterator
from datetime import date, timedelta

from estation.inner.actions.cases import NewParty
from estation.shared import identity_papers
from estation.shared.identity_papers import CREDIT_CODE, RESIDENT_CARD

SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高罗郑梁谢宋唐许邓冯韩曹曾彭萧蔡潘田董袁于余叶蒋杜"
GIVEN = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超霞平刚桂英华玉兰文建国志远思雨梓涵浩然子轩欣怡佳宁"
    "晓东海燕春梅立新凯旋若曦俊峰雪莹嘉懿书瑶鸿飞景行"
)
COMPOUND = ("欧阳明哲", "司马静宜", "上官云岚", "诸葛承泽", "买买提·艾力", "迪丽努尔·阿不都")

BANKS = ("江城银行股份有限公司", "江城农村商业银行股份有限公司", "华江银行股份有限公司江城分行")
DEVELOPERS = ("江城城建置业有限公司", "江城临江房地产开发有限公司")

DISTRICTS = (("360102", "江东区"), ("360103", "滨湖区"), ("360121", "临江县"))
HALLS = (
    ("JC01", "江城市不动产登记中心市民大厅", "360102"),
    ("JC02", "江城市不动产登记中心滨湖大厅", "360103"),
)
ESTATES = {
    "360102": ("解放东路", "朝阳花园", "东门里小区", "沿江一号", "桂花苑"),
    "360103": ("滨湖大道", "翠湖名邸", "望湖家园", "梧桐里", "湖畔春天"),
    "360121": ("临江大街", "锦绣家园", "县前小区", "江语城", "茶山新村"),
}


class Population:
    """Gives out people who were not given out before; the same seed gives the same people."""

    def __init__(
        self, dice: random.Random, *, taken: set[str], first_phone: int = 13800010001
    ) -> None:
        self._dice = dice
        self._taken = set(taken)
        self._phones: Iterator[int] = iter(range(first_phone, first_phone + 89998))

    def person(self, role: str) -> NewParty:
        name = self._name()
        return NewParty(role, name, RESIDENT_CARD, self._id_no(), str(next(self._phones)))

    def _name(self) -> str:
        if self._dice.random() < 0.01:
            return self._dice.choice(COMPOUND)
        given = "".join(self._dice.sample(GIVEN, self._dice.choice((1, 2, 2, 2))))
        return self._dice.choice(SURNAMES) + given

    def _id_no(self) -> str:
        while True:
            born = date(1955, 1, 1) + timedelta(days=self._dice.randrange(49 * 365))
            county = self._dice.choice(DISTRICTS)[0]
            first = f"{county}{born:%Y%m%d}{self._dice.randrange(1, 999):03d}"
            number = first + identity_papers.card_check_digit(first)
            if number not in self._taken:
                self._taken.add(number)
                return number


def organisation(role: str, name: str) -> NewParty:
    """A firm with a unified social credit code made from its place in the tables above."""
    place = (*BANKS, *DEVELOPERS).index(name) + 1
    body = f"MA{place:06d}"
    first_17 = f"91360102{body}{identity_papers.organisation_check_digit(body)}"
    code = first_17 + identity_papers.credit_code_check_digit(first_17)
    return NewParty(role, name, CREDIT_CODE, code, f"138000090{place:02d}")
