"""A desk to act at and a browser to click with, for tests of the internal platform."""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp
from tortoise import Tortoise

from estation.inner import personas
from estation.inner.actions import bills, cases
from estation.inner.actions.bills import NewBill
from estation.inner.actions.cases import NewCase, NewParty, NewStage
from estation.inner.personas import Officer
from estation.inner.rules import Item, Stage, StageState
from estation.outside.gate.rows import ReceiptRow, ReceiptSplitRow
from estation.settings import InnerSettings
from estation.shared import ids

UNIT = "360102001001GB00001F00010101"
DEED_FEN, REG_FEN = 850_000, 8_000
TOTAL_FEN = DEED_FEN + REG_FEN


def item(seq: int, code: str, payee: str, amount_fen: int, **changes: Any) -> Item:
    values: dict[str, Any] = {
        "seq": seq,
        "code": code,
        "name": code,
        "payee_code": payee,
        "base_fen": None,
        "rate": "",
        "relief_fen": 0,
        "amount_fen": amount_fen,
        "formula": "",
        "legal_basis": "",
    }
    return Item(**{**values, **changes})


ITEMS = (item(1, "DEED", "treasury", DEED_FEN), item(2, "REG", "non_tax", REG_FEN))


@dataclass
class Desk:
    """Acts as the desk would; its clock stands still until `later`."""

    settings: InnerSettings
    now: datetime

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)

    async def open_case(self, *, stage: Stage = Stage.TAX, unit: str = UNIT) -> str:
        """A sale from 周建国 to 林晓舟 that stands at `stage`."""
        stages = {
            earlier: NewStage(StageState.DONE, self.now)
            for earlier in list(Stage)[: list(Stage).index(stage)]
        }
        stages[stage] = NewStage(StageState.DOING, self.now)
        parties = [
            NewParty(role, who.name, "1", who.id_no, who.phone)
            for role, who in (("buyer", personas.BUYER), ("seller", personas.SELLER))
        ]
        new = NewCase("RESALE_TRANSFER", "JC01", unit, self.now, parties, stages)
        return await cases.open_case(new, settings=self.settings, now=self.now)

    def new_bill(self, case_no: str, *items: Item, **changes: Any) -> NewBill:
        values: dict[str, Any] = {
            "bill_id": ids.row_id(self.now),
            "case_no": case_no,
            "payer_seq": 1,
            "title": "契税与登记费",
            "issued_at": self.now,
            "due_on": None,
            "items": items or ITEMS,
        }
        return NewBill(**{**values, **changes})

    async def issue(self, case_no: str | None = None, *items: Item, **changes: Any) -> str:
        new = self.new_bill(case_no or await self.open_case(), *items, **changes)
        return await bills.issue_bill(new, made_by="shoufei", settings=self.settings, now=self.now)

    async def revise(self, bill_no: str, version: int, *items: Item, **changes: Any) -> int:
        values: dict[str, Any] = {
            "title": "契税与登记费",
            "due_on": None,
            "reason": "更正",
            "made_by": "shoufei",
        }
        return await bills.revise_bill(
            bill_no,
            expected_version=version,
            items=items or ITEMS,
            settings=self.settings,
            now=self.now,
            **{**values, **changes},
        )

    async def withdraw(self, bill_no: str, version: int, reason: str = "解除合同") -> int:
        return await bills.withdraw_bill(
            bill_no,
            expected_version=version,
            reason=reason,
            made_by="shoufei",
            settings=self.settings,
            now=self.now,
        )

    def receipt(self, bill_no: str, **changes: Any) -> ReceiptRow:
        values: dict[str, Any] = {
            "source": self.settings.source,
            "source_id": bill_no,
            "bill_version": 1,
            "bill_no": bill_no,
            "order_no": "20261123ORDER001",
            "channel": "wechat_pay",
            "out_trade_no": "20261123TRADE001",
            "channel_trade_no": "4200001",
            "paid_at": self.now,
            "amount_fen": TOTAL_FEN,
            "transfer_id": "t-1",
            "splits": [
                ReceiptSplitRow(payee_code="treasury", amount_fen=DEED_FEN, receipt_no="R1"),
                ReceiptSplitRow(payee_code="non_tax", amount_fen=REG_FEN, receipt_no="R2"),
            ],
        }
        return ReceiptRow(**{**values, **changes})


async def query(sql: str, *values: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return rows


@dataclass
class Answer:
    status: int
    text: str
    location: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def csrf_token(self) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.text)
        return found.group(1) if found else ""

    def fields(self) -> dict[str, str]:
        """Hidden and text inputs and chosen options of the page's largest form, as a browser
        would send them."""
        forms = re.findall(r"<form.*?</form>", self.text, re.S)
        form = max(forms, key=len)
        values = {}
        for tag in re.findall(r"<input[^>]*>", form):
            name = re.search(r' name="([^"]*)"', tag)
            value = re.search(r' value="([^"]*)"', tag)
            if name:
                values[name.group(1)] = value.group(1) if value else ""
        for name, options in re.findall(r'<select name="([^"]*)".*?>(.*?)</select>', form, re.S):
            chosen = re.search(r'<option value="([^"]*)" selected', options)
            first = re.search(r'<option value="([^"]*)"', options)
            picked = chosen or first
            values[name] = picked.group(1) if picked else ""
        return values


class Browser:
    """Follows no redirects by itself, keeps cookies, asks for pages."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.headers = {"accept": "text/html"}

    async def get(self, path: str) -> Answer:
        return await self._ask("GET", path, None)

    async def post(self, path: str, **form: str) -> Answer:
        return await self._ask("POST", path, form)

    async def submit(self, path: str, form: dict[str, str]) -> Answer:
        return await self._ask("POST", path, form)

    async def log_in(self, officer: Officer) -> None:
        answer = await self.post("/login", login=officer.login, password=officer.password)
        assert answer.status == 303, answer.text

    async def csrf_token(self) -> str:
        return (await self.get("/cases")).csrf_token

    async def _ask(self, method: str, path: str, form: dict[str, str] | None) -> Answer:
        async with self._session.request(
            method, path, data=form, headers=self.headers, allow_redirects=False
        ) as answer:
            return Answer(
                answer.status,
                await answer.text(),
                answer.headers.get("location", ""),
                {name.lower(): value for name, value in answer.headers.items()},
            )
