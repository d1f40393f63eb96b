"""Fee items from the worked tax cases of config/demo/tax_cases.json.

Only cases whose figures still follow from the rules of 2026 are used, and only those of an
ordinary city and county, so that a bill dated today cites rules in force today.
"""

import functools
import json
from dataclasses import dataclass
from typing import Any

from estation.inner.rules import Item
from estation.settings import CONFIG
from estation.shared.money import display_yuan, fen_from_yuan

FILE = CONFIG / "demo" / "tax_cases.json"

RESALES = ("T01", "T05", "T09", "T11", "T17", "T21", "T25")
COUNTY_RESALE = "T23"
NEW_HOME = "T33"
GIFT = "T29"
REISSUE = "T43"
MORTGAGE = "T53"
USED = (*RESALES, COUNTY_RESALE, NEW_HOME, GIFT, REISSUE, MORTGAGE)

PAYEES = {"REG": "non_tax", "MAINT": "maintenance_fund"}
"""Everything else is a tax and goes to the treasury (facts/domain §5.10)."""

BASES = {
    "VAT": "增值税法；财政部 税务总局公告2025年第17号",
    "UCMT": "城市维护建设税法第四条；财政部 税务总局公告2023年第12号",
    "EDU": "征收教育费附加的暂行规定；财政部 税务总局公告2023年第12号",
    "LEDU": "财综〔2010〕98号；财政部 税务总局公告2023年第12号",
    "LVAT": "财税〔2008〕137号",
    "PIT": "个人所得税法第三条、第六条；国税发〔2006〕108号",
    "DEED": "契税法；财政部 税务总局 住房城乡建设部公告2024年第16号",
    "MAINT": "住宅专项维修资金管理办法（建设部 财政部令第165号）第七条",
    "REG": "发改价格规〔2016〕2559号；财税〔2016〕79号；财税〔2019〕45号",
}
GIFT_BASES = {
    "DEED": "契税法第三条、第四条（三）",
    "STAMP_S": "印花税法；财政部 税务总局公告2023年第12号",
    "STAMP_B": "印花税法；财政部 税务总局公告2023年第12号",
    "PIT": "财税〔2009〕78号",
}
STAMP_BASIS = "财税〔2008〕137号；印花税法"
NOTES = {
    "核定": "按核定方式征收",
    "全额": "购买不满两年，全额征收",
    "满2年免征": "",
    "个人销售住房暂免 财税〔2008〕137号": "",
    "个人购买住房暂免 财税〔2008〕137号": "",
    "据实20%; 装修上限30000.00取30000.00": "据实征收，装修费按原值 15% 封顶计 30,000.00 元",
    "住宅80元/件, 另加证书工本费10元/本": "第一本证书免工本费，每增加一本 10 元",
    "元/㎡, 城市配置": "交存标准由市住建部门公布",
}
"""The file's notes are for programmers; these are for payers, empty where the formula says it."""


@dataclass(frozen=True, slots=True)
class WorkedBill:
    """One payer's bill of a worked case. Zero items are kept: they show what is exempt."""

    worked_id: str
    payer_role: str
    title: str
    items: tuple[Item, ...]
    total_fen: int


@dataclass(frozen=True, slots=True)
class WorkedCase:
    """A worked case as a matter: its bills by payer role, only those with something due."""

    worked_id: str
    area_m2: str
    bills: tuple[WorkedBill, ...]


@functools.cache
def worked_cases() -> dict[str, WorkedCase]:
    """The used cases by id. Raises ValueError when a bill's items do not add up to the file's."""
    raw = json.loads(FILE.read_text(encoding="utf-8"))
    return {case["id"]: _case(case) for case in raw["cases"] if case["id"] in USED}


def _case(raw: dict[str, Any]) -> WorkedCase:
    bills = [_bill(raw, role) for role, total in raw["expected_totals"].items() if fen(total) > 0]
    return WorkedCase(raw["id"], raw["inputs"].get("area", "96.50"), tuple(bills))


def _bill(raw: dict[str, Any], role: str) -> WorkedBill:
    mine = [item for item in raw["expected_items"] if item["payer"] == role]
    items = tuple(_item(raw["id"], seq, item) for seq, item in enumerate(mine, 1))
    total = sum(item.amount_fen for item in items)
    if total != fen(raw["expected_totals"][role]):
        raise ValueError(f"{raw['id']} {role}: items do not add up")
    return WorkedBill(raw["id"], role, _title(raw["id"], role), items, total)


def _title(worked_id: str, role: str) -> str:
    if worked_id == NEW_HOME:
        return "新建商品房契税、维修资金与登记费"
    if worked_id == GIFT:
        return "赠与契税与登记费" if role == "transferee" else "赠与印花税"
    if worked_id == REISSUE:
        return "补发不动产权证书工本费"
    if worked_id == MORTGAGE:
        return "抵押权首次登记费"
    return "存量房买卖契税与登记费" if role == "buyer" else "存量房转让税费"


def _item(worked_id: str, seq: int, raw: dict[str, Any]) -> Item:
    code: str = raw["code"]
    return Item(
        seq=seq,
        code=code,
        name=raw["name_zh"].replace("(", "（").replace(")", "）"),
        payee_code=PAYEES.get(code, "treasury"),
        base_fen=_base_fen(raw),
        rate=_rate(raw),
        relief_fen=fen(raw.get("relief", "0.00")),
        amount_fen=fen(raw["amount"]),
        formula=_formula(worked_id, raw),
        legal_basis=_basis(worked_id, code),
        note=_note(raw),
    )


def _base_fen(raw: dict[str, Any]) -> int | None:
    """Square metres are no money: the maintenance fund has no base in fen."""
    return fen(raw["base"]) if "base" in raw and raw["code"] != "MAINT" else None


def _rate(raw: dict[str, Any]) -> str:
    if raw["code"] == "MAINT":
        return f"{raw['rate']} 元/㎡"
    if raw["code"] == "REG":
        return f"{display_yuan(fen(raw['amount']))} 元/件"
    rate = raw.get("rate", "")
    return percent(rate) if rate and rate != "0" else ""


def _formula(worked_id: str, raw: dict[str, Any]) -> str:
    """In words a citizen can check with a pencil: 850,000.00 元 × 1% = 8,500.00 元."""
    amount, code = display_yuan(fen(raw["amount"])), raw["code"]
    if code == "REG":
        kind = {"T43": "补发证书 1 本", "T53": "非住宅登记 1 件"}.get(worked_id, "住宅登记 1 件")
        return f"{kind} × {amount} 元 = {amount} 元"
    if code == "MAINT":
        return f"建筑面积 {raw['base']} ㎡ × {raw['rate']} 元/㎡ = {amount} 元"
    if fen(raw["amount"]) == 0:
        return f"{_why_nothing(raw)}，应缴 0.00 元"
    full = display_yuan(fen(raw["amount"]) + fen(raw.get("relief", "0.00")))
    text = f"{display_yuan(fen(raw['base']))} 元 × {percent(raw['rate'])} = {full} 元"
    if fen(raw.get("relief", "0.00")):
        text += f"，减半后 {full} 元 − {display_yuan(fen(raw['relief']))} 元 = {amount} 元"
    return text


def _why_nothing(raw: dict[str, Any]) -> str:
    if raw["code"] in ("UCMT", "EDU", "LEDU"):
        return "随增值税附征，本次增值税为零"
    if raw["code"] == "VAT":
        return "住房购买满两年，免征增值税"
    if raw["code"].startswith("STAMP"):
        return "个人买卖住房暂免征收印花税"
    if raw["code"] == "LVAT":
        return "个人销售住房暂免征收土地增值税"
    return "符合免征条件"


def _basis(worked_id: str, code: str) -> str:
    if worked_id == GIFT and code in GIFT_BASES:
        return GIFT_BASES[code]
    if worked_id == "T09" and code == "PIT":
        return "财税字〔1994〕20号；国税发〔2006〕108号"
    return STAMP_BASIS if code.startswith("STAMP") else BASES[code]


def _note(raw: dict[str, Any]) -> str:
    given: str = raw.get("note", "")
    return NOTES.get(given, given)


def fen(yuan: str) -> int:
    return fen_from_yuan(yuan)


def percent(rate: str) -> str:
    """ "0.015" -> "1.5%", exactly, without floats."""
    whole, _, decimals = rate.partition(".")
    digits = (decimals + "00")[: max(2, len(decimals))]
    number = f"{int(whole + digits[:2])}.{digits[2:]}".rstrip("0").rstrip(".")
    return f"{number}%"
