"""The bill form: text fields to items, with a sentence beside every field that is wrong."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from uuid import UUID

from estation.inner import catalogue
from estation.inner.rules import MAX_ITEMS, TEXT_LIMITS, Item
from estation.shared import ids
from estation.shared.errors import Refused
from estation.shared.fields import MAX_FEN
from estation.shared.money import NotMoney, fen_from_yuan, yuan_from_fen

FIELDS = (
    "code",
    "name",
    "payee_code",
    "base",
    "rate",
    "relief",
    "amount",
    "formula",
    "legal_basis",
    "note",
)
MIN_LINES = 3
MORE_LINES = 3
_SPACES_AND_COMMAS = re.compile(r"[\s,，]")

Line = dict[str, str]


@dataclass(frozen=True, slots=True)
class BillForm:
    """What stands in the form, as text; errors are keyed `<field>` or `<line>-<field>`."""

    form_id: str
    payer: str
    title: str
    due_on: str
    reason: str
    version: str
    lines: list[Line]
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def total_fen(self) -> int | None:
        """The sum of the readable amounts; None while an amount is unreadable."""
        amounts = [_fen(line["amount"]) for line in self.lines if line["amount"].strip()]
        readable = [fen for fen in amounts if fen is not None]
        return sum(readable) if len(readable) == len(amounts) else None

    def with_more_lines(self) -> "BillForm":
        count = min(len(self.lines) + MORE_LINES, MAX_ITEMS)
        return replace(self, lines=_padded(self.lines, count), errors={})

    def refused(self, refusal: Refused) -> "BillForm":
        """The refusal's sentence beside the field it is about, or above the form."""
        seq, name = refusal.details.get("seq"), refusal.details.get("field")
        known = {"title", "reason", "due_on", "payer"}
        key = f"{seq}-{name}" if seq and name else name if name in known else "form"
        return replace(self, errors={**self.errors, str(key): refusal.message})


@dataclass(frozen=True, slots=True)
class BillInput:
    """A form without mistakes in its fields; the rules still have their say."""

    form_id: UUID
    payer_seq: int
    title: str
    due_on: date | None
    reason: str
    version: int
    items: list[Item]


def blank_form(*, payer: str, role: str, now: datetime) -> BillForm:
    """A new bill with the taxes and fees this party usually owes, amounts to be filled in."""
    lines = [
        _line(
            code=kind.code,
            name=kind.name,
            payee_code=kind.payee_code,
            legal_basis=kind.legal_basis,
        )
        for kind in catalogue.usual_kinds(role)
    ]
    return BillForm(str(ids.row_id(now)), payer, "", "", "", "1", _padded(lines, MIN_LINES))


def form_of_items(
    items: list[Item], *, title: str, due_on: date | None, version: int, now: datetime
) -> BillForm:
    """An existing bill to be revised."""
    lines = [
        _line(
            code=item.code,
            name=item.name,
            payee_code=item.payee_code,
            base=yuan_from_fen(item.base_fen) if item.base_fen is not None else "",
            rate=item.rate,
            relief=yuan_from_fen(item.relief_fen) if item.relief_fen else "",
            amount=yuan_from_fen(item.amount_fen),
            formula=item.formula,
            legal_basis=item.legal_basis,
            note=item.note,
        )
        for item in items
    ]
    due = due_on.isoformat() if due_on else ""
    return BillForm(str(ids.row_id(now)), "", title, due, "", str(version), lines)


def read_form(form: Mapping[str, str]) -> BillForm:
    """The form as sent; lines beyond MAX_ITEMS are refused by the rules, not cut silently."""
    count = 0
    while count <= MAX_ITEMS and any(f"{count + 1}-{name}" in form for name in FIELDS):
        count += 1
    lines = [
        {name: form.get(f"{n}-{name}", "").strip() for name in FIELDS} for n in range(1, count + 1)
    ]
    return BillForm(
        form_id=form.get("form_id", ""),
        payer=form.get("payer", ""),
        title=form.get("title", "").strip(),
        due_on=form.get("due_on", "").strip(),
        reason=form.get("reason", "").strip(),
        version=form.get("version", ""),
        lines=lines,
    )


def parse(form: BillForm) -> BillInput | BillForm:
    """The values, or the same form with the errors beside its fields. Blank lines are left out."""
    errors: dict[str, str] = {}
    items = [
        _item(number, line, errors)
        for number, line in enumerate(form.lines, 1)
        if not _is_blank(line)
    ]
    if not form.title:
        errors["title"] = "请填写缴费单名称。"
    due_on = _date(form.due_on, errors)
    form_id, payer, version = _whole(form, errors)
    if errors or form_id is None:
        return replace(form, errors=errors)
    return BillInput(form_id, payer, form.title, due_on, form.reason, version, items)


def _item(number: int, line: Line, errors: dict[str, str]) -> Item:
    if not line["name"]:
        errors[f"{number}-name"] = "请填写项目名称。"
    if not line["payee_code"]:
        errors[f"{number}-payee_code"] = "请选择收款单位。"
    for name, limit in TEXT_LIMITS.items():
        if len(line[name]) > limit:
            errors[f"{number}-{name}"] = f"最多 {limit} 个字。"
    if not line["amount"]:
        errors[f"{number}-amount"] = "请填写应缴金额，免征的填 0。"
    base = _money(number, "base", line, errors) if line["base"] else None
    return Item(
        seq=number,
        code=_code(line),
        name=line["name"],
        payee_code=line["payee_code"],
        base_fen=base,
        rate=line["rate"],
        relief_fen=_money(number, "relief", line, errors) if line["relief"] else 0,
        amount_fen=_money(number, "amount", line, errors) if line["amount"] else 0,
        formula=line["formula"],
        legal_basis=line["legal_basis"],
        note=line["note"],
    )


def _code(line: Line) -> str:
    """The kind the line was prefilled with while the name still says so, else by its name."""
    return line["code"] or catalogue.code_of(line["name"])


def _money(number: int, name: str, line: Line, errors: dict[str, str]) -> int:
    fen = _fen(line[name])
    if fen is None:
        errors[f"{number}-{name}"] = NotMoney.message
        return 0
    if not 0 <= fen <= MAX_FEN:
        errors[f"{number}-{name}"] = "金额不能为负，也不能超过 1000 亿元。"
        return 0
    return fen


def _fen(text: str) -> int | None:
    """Clerks paste 8,580.00 with its separators: those are taken off, nothing else."""
    try:
        return fen_from_yuan(_SPACES_AND_COMMAS.sub("", text))
    except NotMoney:
        return None


def _date(text: str, errors: dict[str, str]) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        errors["due_on"] = "日期应写作 2026-11-30。"
        return None


def _whole(form: BillForm, errors: dict[str, str]) -> tuple[UUID | None, int, int]:
    """The hidden fields; only a tampered or torn form gets them wrong."""
    try:
        return UUID(form.form_id), int(form.payer or 0), int(form.version or 0)
    except ValueError:
        errors["form"] = "表单不完整，请从办件页重新打开。"
        return None, 0, 0


def _is_blank(line: Line) -> bool:
    """Nothing typed: a line that still is as it was prefilled is left out, any other is not."""
    if any(line[name] for name in ("base", "rate", "relief", "amount", "formula", "note")):
        return False
    kind = catalogue.KINDS.get(line["code"])
    return not line["name"] or (kind is not None and kind.name == line["name"])


def _line(**values: str) -> Line:
    return {name: values.get(name, "") for name in FIELDS}


def _padded(lines: list[Line], count: int) -> list[Line]:
    return [*lines, *(_line() for _ in range(count - len(lines)))]
