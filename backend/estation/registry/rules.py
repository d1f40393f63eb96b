"""How numbers of the register are spelled, and what a replicated row may say. Pure."""

import re
import unicodedata
from collections.abc import Sequence
from datetime import date, datetime
from fractions import Fraction
from typing import Protocol

from estation.shared.identity_papers import RESIDENT_CARD, valid_paper

_CERTIFICATE = re.compile(
    r"(?P<province>[京津冀晋蒙辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼渝川贵云藏陕甘青宁新])"
    r"（(?P<year>[0-9]{4})）(?P<place>[\u4e00-\u9fa5]{1,15})"
    r"不动产(?P<kind>权|证明)第(?P<serial>[0-9]{1,8})号(?:（[销临时]{1,2}）[0-9]*)?"
)
_BRACKETS = str.maketrans("()[]〔〕【】", "（）（）（）（）")
_OLD_CARD = re.compile(r"[0-9]{15}")
_KINDS = {"权": "title", "证明": "proof"}

MORTGAGES = frozenset({"mortgage", "mortgage_prenotice"})


def clean_unit_code(text: str) -> str:
    """As printed in groups (320802 002022 GB00069 F00010023) or typed: no blanks, capitals."""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text)).upper()


def certificate_key(number: str) -> str:
    """One spelling per certificate, to find it by.

    Brackets of any kind, blanks, full-width digits, leading zeros of the serial and a 销 or 临时
    behind it make no other number. Older papers, without a national form, only lose blanks.
    """
    text = re.sub(r"\s", "", unicodedata.normalize("NFKC", number)).translate(_BRACKETS)
    found = _CERTIFICATE.fullmatch(text)
    if found is None:
        return text.upper()
    part = found.groupdict()
    return (
        f"{part['province']}（{part['year']}）{part['place']}不动产{part['kind']}"
        f"第{int(part['serial'])}号"
    )


def kind_of_certificate(number: str) -> str:
    """What the number itself says: title, proof, or legacy when it has no national form."""
    found = _CERTIFICATE.fullmatch(certificate_key(number))
    return _KINDS[found["kind"]] if found else "legacy"


class Holder(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def id_type(self) -> str: ...
    @property
    def id_no(self) -> str: ...
    @property
    def share_numerator(self) -> int: ...
    @property
    def share_denominator(self) -> int: ...


class Unit(Protocol):
    @property
    def unit_code(self) -> str: ...
    @property
    def parcel_code(self) -> str: ...


class Right(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def holding(self) -> str: ...
    @property
    def holders(self) -> Sequence[Holder]: ...
    @property
    def secured_fen(self) -> int | None: ...
    @property
    def maximum(self) -> bool: ...
    @property
    def debt_from(self) -> date | None: ...
    @property
    def debt_until(self) -> date | None: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def transfer_limited(self) -> bool | None: ...


class Restriction(Protocol):
    @property
    def since(self) -> date: ...
    @property
    def until(self) -> date | None: ...
    @property
    def state(self) -> str: ...
    @property
    def queue_position(self) -> int: ...
    @property
    def lifted_at(self) -> datetime | None: ...


class Certificate(Protocol):
    @property
    def number(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def holders(self) -> Sequence[Holder]: ...
    @property
    def unit_codes(self) -> Sequence[str]: ...


def fault_of_unit(row: Unit) -> str:
    """Why a replicated unit can never be accepted, as a stable word; "" when it can."""
    return "" if row.unit_code.startswith(row.parcel_code) else "parcel_code"


def fault_of_right(row: Right, *, today: date) -> str:
    """Shares stand exactly where the right is held by shares; a mortgage, and only it, secures."""
    fault = _fault_of_holders(row.holders, today=today)
    if fault:
        return fault
    if not _shares_fit(row):
        return "share"
    if row.kind in MORTGAGES:
        if row.secured_fen is None:
            return "secured_fen"
        if row.debt_from and row.debt_until and row.debt_until < row.debt_from:
            return "debt_until"
    elif row.maximum or any(
        value is not None
        for value in (
            row.secured_fen, row.debt_from, row.debt_until, row.rank, row.transfer_limited,
        )
    ):  # fmt: skip
        return "secured_fen"
    return ""


def fault_of_restriction(row: Restriction) -> str:
    """It waits exactly when something stands before it, and is lifted exactly at a moment."""
    if row.until is not None and row.until < row.since:
        return "until"
    if (row.state == "queued") != (row.queue_position > 0) and row.state != "lifted":
        return "queue_position"
    return "lifted_at" if (row.state == "lifted") != (row.lifted_at is not None) else ""


def fault_of_certificate(row: Certificate, *, today: date) -> str:
    """The number's own 权 or 证明 says what it is."""
    fault = _fault_of_holders(row.holders, today=today)
    if fault:
        return fault
    if not row.number.strip() or kind_of_certificate(row.number) != row.kind:
        return "number"
    return "unit_codes" if len(set(row.unit_codes)) != len(row.unit_codes) else ""


def clean_number(text: str) -> str:
    """One spelling per paper number: no blanks around, capitals."""
    return text.strip().upper()


def _fault_of_holders(holders: Sequence[Holder], *, today: date) -> str:
    for seq, holder in enumerate(holders, 1):
        if not holder.name.strip():
            return f"holder {seq} name"
        number = clean_number(holder.id_no)
        # An old register may know somebody by no number, or by one of fifteen digits.
        old = not number or (holder.id_type == RESIDENT_CARD and _OLD_CARD.fullmatch(number))
        if not old and not valid_paper(holder.id_type, number, today=today):
            return f"holder {seq} id_no"
    return ""


def _shares_fit(row: Right) -> bool:
    if row.holding != "shares":
        return not any(one.share_numerator or one.share_denominator for one in row.holders)
    if any(one.share_numerator < 1 or one.share_denominator < 1 for one in row.holders):
        return False
    # Never more than the whole; less where a share's holder is not in the register.
    return sum(Fraction(one.share_numerator, one.share_denominator) for one in row.holders) <= 1
