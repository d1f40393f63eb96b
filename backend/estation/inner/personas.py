"""The people of the demo city whom a visitor can be: two citizens and two officers."""

from dataclasses import dataclass

from estation.inner.rules import Role


@dataclass(frozen=True, slots=True)
class Citizen:
    """Logs in with phone, code by short message and the last six of the identity number."""

    name: str
    title: str
    phone: str
    id_no: str


@dataclass(frozen=True, slots=True)
class Officer:
    """Logs in at the internal platform."""

    login: str
    name: str
    title: str
    role: Role
    password: str


BUYER = Citizen("林晓舟", "买方，有两张待缴的缴费单", "13800000001", "360102199203150027")
SELLER = Citizen("周建国", "卖方，有一张待缴的缴费单", "13800000002", "360103196808120018")

REGISTRAR = Officer("dengji", "沈文清", "登记员", Role.REGISTRAR, "Dengji-2026!")
FEE_CLERK = Officer("shoufei", "秦岚", "收费员", Role.FEE_CLERK, "Shoufei-2026!")
STAFF = (REGISTRAR, FEE_CLERK)
