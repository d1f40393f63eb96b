"""Every field of the office that takes words: what is no text is refused with a clear 422, and
nothing changes; what is too long is refused, not cut."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from estation.payments import api
from estation.payments.actions import asking
from estation.payments.errors import AttemptNotFound
from estation.shared.errors import InvalidInput
from estation.shared.pages import H5
from estation.shared.typed import NotText
from tests.payments.city import TOTAL, City, later, rows
from tests.payments.office import Office, open_office
from tests.payments.test_asked_refunds import ask as ask_of_order
from tests.payments.test_asked_refunds import paid
from tests.payments.test_claims import ask_to_recover, open_claim
from tests.payments.test_paid_by_hand import at_our_card
from tests.payments.test_second_person import abnormal
from tests.payments.test_settled_outside import FEN, late_money, odd_money

WRONG = ["\x00", "不同意\x00", "不同意\x07", "\x1b[2J", "不同意\x85", "\u202e意同不"]
SENTENCE = "看不见的控制字符"


@pytest.fixture
async def office(database: str) -> AsyncIterator[Office]:
    async with open_office() as opened:
        yield opened


async def everything() -> list[Any]:
    return [
        await rows(f"select * from {table} order by 1")
        for table in ("pay_refund", "outside_settlement", "incident", "incident_action",
                      "ledger_transfer", "split_export")
    ]  # fmt: skip


Form = tuple[str, dict[str, str], str]
"""A page's address, its other fields, and the field for words."""


async def _refund(office: Office) -> Form:
    page = f"/staff/incidents/{await odd_money(office.city)}/refund"
    return page, {"amount": "1.00", "believed_fen": str(FEN)}, "reason"


async def _refund_of_order(office: Office) -> Form:
    _, order, _ = await paid(office.city)
    form = {"order_no": order.order_no, "amount": "1.00", "believed_fen": str(TOTAL)}
    return "/staff/refunds/new", form, "reason"


async def _refund_answer(office: Office, answer: str) -> Form:
    _, order, _ = await paid(office.city)
    request_id = await ask_of_order(order, 500)
    await office.sit_down("checker")
    return f"/staff/refunds/{request_id}/{answer}", {}, "note"


async def _apply(office: Office) -> Form:
    return f"/staff/incidents/{await late_money(office.city)}/apply", {}, "note"


async def _apply_rejected(office: Office) -> Form:
    incident_id = await late_money(office.city)
    await api.ask_to_apply(incident_id=incident_id, by="maker", now=later(hours=1))
    await office.sit_down("checker")
    return f"/staff/incidents/{incident_id}/apply/reject", {}, "note"


async def _outside(office: Office, field: str) -> Form:
    page = f"/staff/incidents/{await odd_money(office.city)}/outside"
    form = {"believed_fen": str(FEN), "outside_reason": "已转账", "document_no": "118号"}
    return page, {name: text for name, text in form.items() if name != field}, field


async def _outside_rejected(office: Office) -> Form:
    incident_id = await odd_money(office.city)
    await api.ask_to_settle_outside(
        incident_id=incident_id, believed_fen=FEN, reason="已转账", document_no="118号",
        by="maker", now=later(hours=1),
    )  # fmt: skip
    await office.sit_down("checker")
    return f"/staff/incidents/{incident_id}/outside/reject", {}, "note"


async def _claim(office: Office, field: str) -> Form:
    page = f"/staff/incidents/{await open_claim(office.city)}/claim"
    form = {
        "claim_end": "written_off", "claim_amount": "1.00", "believed_fen": str(FEN),
        "claim_document_no": "119号", "claim_reason": "无法追回",
    }  # fmt: skip
    return page, {name: text for name, text in form.items() if name != field}, field


async def _claim_rejected(office: Office) -> Form:
    incident_id = await open_claim(office.city)
    await ask_to_recover(incident_id)
    await office.sit_down("checker")
    return f"/staff/incidents/{incident_id}/claim/reject", {}, "note"


async def _by_hand(office: Office) -> Form:
    await at_our_card(office.city)
    return f"/staff/incidents/{await _id_of('refund_abnormal')}/by-hand", {}, "hand_document_no"


async def _by_hand_rejected(office: Office) -> Form:
    refund_id = await at_our_card(office.city)
    await api.ask_paying_by_hand(
        refund_id=refund_id, document_no="120号", by="maker", now=later(hours=7)
    )
    await office.sit_down("checker")
    return f"/staff/incidents/{await _id_of('refund_abnormal')}/by-hand/reject", {}, "note"


async def _redirect(office: Office) -> Form:
    await abnormal(office.city)
    return f"/staff/incidents/{await _id_of('refund_abnormal')}/redirect", {}, "note"


async def _redirect_rejected(office: Office) -> Form:
    refund_id = await abnormal(office.city)
    await api.ask_redirect(refund_id=refund_id, by="maker", now=later(hours=3))
    await office.sit_down("checker")
    return f"/staff/incidents/{await _id_of('refund_abnormal')}/redirect/reject", {}, "note"


async def _resolve(office: Office) -> Form:
    await abnormal(office.city)
    await rows("update pay_refund set state = 'processing' returning id")
    return f"/staff/incidents/{await _id_of('refund_abnormal')}", {}, "resolution"


async def _id_of(kind: str) -> UUID:
    (found,) = await rows("select id from incident where kind = $1", kind)
    return UUID(str(found["id"]))


FIELDS: dict[str, Callable[[Office], Awaitable[Form]]] = {
    "refund of an incident": _refund,
    "refund of an order": _refund_of_order,
    "refund approved": lambda office: _refund_answer(office, "approve"),
    "refund rejected": lambda office: _refund_answer(office, "reject"),
    "apply": _apply,
    "apply rejected": _apply_rejected,
    "outside: reason": lambda office: _outside(office, "outside_reason"),
    "outside: document": lambda office: _outside(office, "document_no"),
    "outside rejected": _outside_rejected,
    "claim: document": lambda office: _claim(office, "claim_document_no"),
    "claim: reason": lambda office: _claim(office, "claim_reason"),
    "claim rejected": _claim_rejected,
    "by hand": _by_hand,
    "by hand rejected": _by_hand_rejected,
    "redirect": _redirect,
    "redirect rejected": _redirect_rejected,
    "resolve": _resolve,
}


@pytest.mark.parametrize("place", FIELDS)
async def test_what_is_no_text_or_too_long_is_refused_and_text_is_taken(
    office: Office, place: str
) -> None:
    await office.sit_down("clerk")
    page, form, field = await FIELDS[place](office)
    before = await everything()

    for typed in WRONG:
        assert await office.post(page, **form, **{field: typed}) == 422, typed
        assert SENTENCE in office.text, typed
    assert await office.post(page, **form, **{field: "字" * 2001}) == 422
    unchanged = await everything()
    taken = await office.post(page, **form, **{field: "第118号 同意"})

    assert unchanged == before
    assert taken == 303, office.text


async def test_no_field_for_words_was_forgotten(office: Office) -> None:
    """Each name that a template of the office gives to a text field is in the table above."""
    named = {
        "reason", "note", "outside_reason", "document_no", "resolution",
        "amount", "order_no", "claim_amount", "claim_document_no", "claim_reason",
        "hand_document_no",
    }  # fmt: skip
    found = set()
    for template in (H5 / "templates" / "staff").glob("*.html"):
        text = template.read_text(encoding="utf-8")
        for part in text.split("<input ")[1:] + text.split("<textarea ")[1:]:
            tag = part.partition(">")[0]
            if 'type="hidden"' not in tag and ('maxlength="' in tag or "inputmode" in tag):
                found.add(tag.partition('name="')[2].partition('"')[0])

    assert found - {"login", "password"} == named


@pytest.mark.parametrize("wrong", ["\x00", "FZ\x00", "\x1b", "\u202e", "FZ1"])
async def test_a_number_that_is_no_text_is_nobodys(office: Office, wrong: str) -> None:
    await office.sit_down("clerk")
    before = await everything()

    form = {"order_no": wrong, "amount": wrong, "believed_fen": wrong, "reason": "退还"}
    assert await office.post("/staff/refunds/new", **form) in (404, 422)
    assert await office.post("/staff/splits", day="2026-03-10", account_id=wrong) == 404
    assert await office.post("/staff/splits", day=wrong, account_id=wrong) in (404, 422)
    for path in ("/staff/splits/{}.csv", "/staff/refunds/new?order_no={}"):
        assert await office.get(path.format(_escaped(wrong))) == 404

    assert await everything() == before


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


class TestAtTheActions:
    """As the command line and programs call them, without a page before."""

    @pytest.mark.parametrize("wrong", ["退\x00还", "退\x1b还", "退\ud800还"])
    async def test_a_refunds_reason_is_text(self, database: str, wrong: str) -> None:
        _, order, _ = await paid(City())
        before = await everything()

        with pytest.raises(NotText):
            await ask_of_order(order, 500, reason=wrong)

        assert await everything() == before

    async def test_a_reason_over_the_channels_length_is_not_cut(self, database: str) -> None:
        _, order, _ = await paid(City())

        with pytest.raises(InvalidInput):
            await ask_of_order(order, 500, reason="字" * 81)

        assert await rows("select id from pay_refund") == []

    @pytest.mark.parametrize("wrong", ["a\x00b", "\ud800", "\x1b", "NOBODYS"])
    async def test_a_number_that_is_no_text_is_no_attempts(self, database: str, wrong: str) -> None:
        for ask in (asking.ask_again, asking.close_now):
            with pytest.raises(AttemptNotFound):
                await ask(wrong, City().services, now=later(hours=1))
