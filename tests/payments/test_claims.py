"""A claim of ours has a way home: the money came back, or an office gave it up; by two persons
and a document, in the books, and not before it is zero is its incident over."""

import asyncio
from collections.abc import Sequence
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import pytest

from estation.ledger.api import balance, open_claim_fen
from estation.outside.pay_channels import RefundStatus
from estation.payments import api
from estation.payments.actions import reversing
from estation.payments.api import ClaimEnd
from estation.payments.errors import (
    ClaimChanged,
    ClaimEndAlreadyAsked,
    ClaimEndNotAsked,
    IncidentAlreadyResolved,
    IncidentNotFound,
    NoClaim,
    OverpaidBack,
    RefundUnderWay,
    SecondPersonNeeded,
)
from estation.payments.invariants import broken_invariants
from estation.shared.errors import InvalidInput
from estation.shared.typed import NotText
from tests.payments import test_asked_refunds as of_payments
from tests.payments.city import TOTAL, City, later, rows
from tests.payments.fakes import NOW
from tests.payments.office import open_office
from tests.payments.test_asked_refunds import approve, paid, send
from tests.payments.test_closed_and_given_back import (
    BEYOND,
    CLAIM,
    close_the_last,
    closed_refund,
    give_back_after_all,
    the_claim,
)
from tests.payments.test_settled_outside import (
    FEN,
    OUTSIDE,
    SUSPENSE,
    ask,
    ask_refund,
    book,
    late_money,
    odd_money,
    resolve,
)

RECEIVED = "received_outside:wechat_pay:1900000109"
LOST = "written_off:wechat_pay:1900000109"
CLEARING = "channel_clearing:wechat_pay:1900000109"
DAY = date(2026, 8, 3)


@pytest.fixture
async def city(database: str) -> City:
    return City()


async def open_claim(city: City) -> UUID:
    """Closed, settled outside, and then given back after all: FEN too much."""
    incident_id = await odd_money(city)
    first = await closed_refund(city, incident_id)
    await ask(incident_id, now=later(hours=4))
    await book(incident_id, now=later(hours=5))
    await give_back_after_all(city, first, later(hours=6))
    return (await the_claim())[0]


async def closed_again(city: City, incident_id: UUID) -> str:
    """A second refund of the same money, later than the channel's minute after the first."""
    await approve(await ask_refund(incident_id, FEN, FEN), now=later(hours=3))
    await send(city, later(hours=3, minutes=10))
    number = list(city.wechat.refunds)[-1]
    closed = city.wechat.finish(number, RefundStatus.CLOSED)
    await api.settle_batch([api.from_refund(closed)], now=later(hours=3, minutes=11))
    return number


async def ask_to_recover(
    incident_id: UUID, fen: int = FEN, left: int = FEN, **changes: Any
) -> UUID:
    values: dict[str, Any] = {
        "kind": ClaimEnd.RECOVERED,
        "document_no": "建行回单 20260803-7",
        "received_on": DAY,
        "by": "maker",
        "now": later(hours=30),
    }
    return await api.ask_to_end_claim(
        incident_id=incident_id, amount_fen=fen, believed_fen=left, **{**values, **changes}
    )


async def ask_to_write_off(incident_id: UUID, **changes: Any) -> UUID:
    values: dict[str, Any] = {
        "kind": ClaimEnd.WRITTEN_OFF,
        "document_no": "江财核〔2026〕9号",
        "reason": "市财政局决定：付款人下落不明",
        "received_on": None,
    }
    return await ask_to_recover(incident_id, **{**values, **changes})


async def end(incident_id: UUID, fen: int = FEN, **changes: Any) -> str:
    values: dict[str, Any] = {"by": "checker", "now": later(hours=31)}
    return await api.approve_ending_claim(
        incident_id=incident_id, believed_fen=fen, **{**values, **changes}
    )


async def everything() -> Sequence[Any]:
    """What a refusal must leave as it is."""
    return [
        await rows(f"select * from {table} order by 1, 2")
        for table in ("incident", "incident_action", "ledger_entry", "claim_settlement")
    ]


async def claims() -> list[dict[str, Any]]:
    return await rows(
        "select state, resolved_by from incident where kind = 'refund_overpaid' order by id"
    )


class TestWhatCameBack:
    async def test_is_booked_by_two_persons_and_ends_the_incident(self, city: City) -> None:
        incident_id = await open_claim(city)
        await ask_to_recover(incident_id)
        between = (await balance(CLAIM), await claims())

        transfer_id = await end(incident_id)

        assert between == (FEN, [{"state": "open", "resolved_by": ""}])
        assert (await balance(CLAIM), await balance(RECEIVED)) == (0, FEN)
        assert await claims() == [{"state": "resolved", "resolved_by": "checker"}]
        (transfer,) = await rows("select * from ledger_transfer where id = $1", transfer_id)
        assert (transfer["kind"], transfer["kind"] in reversing.POSTED_BY_ACTIONS) == (
            "claim_recovered",
            True,
        ), "nobody undoes it by hand"
        deeds = await rows(
            "select action, by, note, transfer_id::text as transfer from incident_action"
            " where incident_id = $1 order by at, id",
            incident_id,
        )
        words = "追回 ¥ 50.00，2026-08-03 到账（建行回单 20260803-7）"
        assert deeds == [
            {"action": "claim_asked", "by": "maker", "note": words, "transfer": None},
            {"action": "claim_recovered", "by": "checker", "note": words,
             "transfer": transfer_id},
        ]  # fmt: skip
        assert await broken_invariants() == {}

    async def test_leaves_the_city_where_it_would_be_without_the_error(self, city: City) -> None:
        """Finance paid the citizen once and has the sum at the merchant account's loss again."""
        await end_by_recovering(city)

        assert await balance(SUSPENSE) == 0
        assert await balance(CLEARING) == 0
        assert await balance(OUTSIDE) + await balance(RECEIVED) == 0

    async def test_other_incidents_of_that_money_may_then_be_ended_in_words(
        self, city: City
    ) -> None:
        await end_by_recovering(city)
        (other,) = await rows("select id from incident where state = 'open'")

        await resolve(UUID(str(other["id"])), later(hours=40))
        await api.resolve_incident(
            incident_id=UUID(str(other["id"])), by="another", resolution="属实", now=later(hours=41)
        )

        assert await rows("select id from incident where state = 'open'") == []

    async def test_in_part_leaves_the_rest_claimed(self, city: City) -> None:
        incident_id = await open_claim(city)
        await ask_to_recover(incident_id, 2_000)
        await end(incident_id, 2_000)
        with pytest.raises(OverpaidBack) as refused:
            await resolve(incident_id, later(hours=32))
        after_a_part = (await balance(CLAIM), await claims(), list(await broken_invariants()))

        await ask_to_recover(incident_id, 3_000, 3_000, document_no="回单 8", now=later(hours=33))
        await end(incident_id, 3_000, now=later(hours=34))

        assert refused.value.details == {"claim_fen": 3_000}
        assert after_a_part == (3_000, [{"state": "open", "resolved_by": ""}], [BEYOND])
        assert (await balance(CLAIM), await balance(RECEIVED)) == (0, FEN)
        assert (await claims())[0]["state"] == "resolved"
        assert await broken_invariants() == {}

    async def test_of_a_payment_given_back_twice_is_of_no_single_payee(self, city: City) -> None:
        _, order, _ = await paid(city)
        await approve(await of_payments.ask(order, TOTAL))
        first = await close_the_last(city)
        await approve(await of_payments.ask(order, TOTAL, now=later(hours=3)), now=later(hours=3))
        await of_payments.give_back(city, later(hours=4))
        await give_back_after_all(city, first, later(hours=5))
        claim_id, fen = await the_claim()
        await ask_to_recover(claim_id, fen - 1, fen)
        await end(claim_id, fen - 1)
        but_for_one = set(await broken_invariants())

        await ask_to_write_off(claim_id, fen=1, left=1)
        await end(claim_id, 1)

        assert but_for_one == {BEYOND, "no_payee_gives_back_more_than_it_got"}
        assert (await balance(CLAIM), await balance(RECEIVED), await balance(LOST)) == (
            0, TOTAL - 1, 1,
        )  # fmt: skip
        assert await balance("payee_payable:treasury") == 0
        assert await broken_invariants() == {}

    async def test_of_late_money_that_was_applied_leaves_its_bill_paid(self, city: City) -> None:
        incident_id = await late_money(city)
        (first,) = city.wechat.refunds
        await api.ask_to_apply(incident_id=incident_id, by="maker", now=later(hours=5))
        await api.approve_applying(incident_id=incident_id, by="checker", now=later(hours=6))
        await give_back_after_all(city, first, later(hours=7))
        claim_id, fen = await the_claim()

        await ask_to_recover(claim_id, fen, fen)
        await end(claim_id, fen)

        assert await rows("select state from bill") == [{"state": "paid"}]
        assert await broken_invariants() == {}

    async def test_ends_all_incidents_of_the_claim_at_once(self, city: City) -> None:
        """Two refunds of one arrival were closed, and both arrived after all."""
        incident_id = await odd_money(city)
        first = await closed_refund(city, incident_id)
        second = await closed_again(city, incident_id)
        await ask(incident_id, now=later(hours=4))
        await book(incident_id, now=later(hours=5))
        await give_back_after_all(city, first, later(hours=6))
        await give_back_after_all(city, second, later(hours=7))
        opened = await rows("select id, amount_fen from incident where kind = 'refund_overpaid'")

        await ask_to_recover(opened[0]["id"], 2 * FEN, 2 * FEN)
        await end(opened[1]["id"], 2 * FEN)

        assert [one["amount_fen"] for one in opened] == [FEN, FEN]
        assert [one["state"] for one in await claims()] == ["resolved", "resolved"]
        assert await broken_invariants() == {}

    async def test_does_not_cover_what_is_given_away_after_it(self, city: City) -> None:
        incident_id = await odd_money(city)
        first = await closed_refund(city, incident_id)
        second = await closed_again(city, incident_id)
        await ask(incident_id, now=later(hours=4))
        await book(incident_id, now=later(hours=5))
        await give_back_after_all(city, first, later(hours=6))
        claim_id, _ = await the_claim()
        await ask_to_recover(claim_id)
        await end(claim_id)

        await give_back_after_all(city, second, later(hours=40))

        assert await balance(CLAIM) == FEN
        assert sorted(one["state"] for one in await claims()) == ["open", "resolved"]
        assert list(await broken_invariants()) == [BEYOND]


async def end_by_recovering(city: City) -> None:
    incident_id = await open_claim(city)
    await ask_to_recover(incident_id)
    await end(incident_id)


class TestWhatIsGivenUp:
    async def test_is_a_loss_by_the_decision_of_an_office(self, city: City) -> None:
        incident_id = await open_claim(city)

        await ask_to_write_off(incident_id)
        await end(incident_id)

        assert (await balance(CLAIM), await balance(LOST), await balance(RECEIVED)) == (0, FEN, 0)
        (incident,) = await rows("select resolution from incident where id = $1", incident_id)
        assert "核销 ¥ 50.00（江财核〔2026〕9号），市财政局决定" in incident["resolution"]
        assert await broken_invariants() == {}

    async def test_needs_whose_decision_it_was(self, city: City) -> None:
        incident_id = await open_claim(city)
        before = await everything()

        with pytest.raises(InvalidInput) as refused:
            await ask_to_write_off(incident_id, reason=" ")

        assert refused.value.details == {"field": "reason"}
        assert await everything() == before


class TestRefusals:
    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"fen": 0}, "amount_fen"),
            ({"fen": -1}, "amount_fen"),
            ({"fen": FEN + 1}, "amount_fen"),
            ({"received_on": None}, "received_on"),
            ({"received_on": date(2026, 8, 5)}, "received_on"),
            ({"kind": ClaimEnd.WRITTEN_OFF, "reason": "决定"}, "received_on"),
            ({"document_no": " "}, "document_no"),
            ({"document_no": "x" * 65}, "document_no"),
            ({"reason": "字" * 201}, "reason"),
        ],
    )
    async def test_a_wish_without_sum_day_or_document_changes_nothing(
        self, city: City, wrong: dict[str, Any], field: str
    ) -> None:
        incident_id = await open_claim(city)
        before = await everything()

        with pytest.raises(InvalidInput) as refused:
            await ask_to_recover(incident_id, **wrong)

        assert refused.value.details == {"field": field}
        assert await everything() == before

    async def test_a_document_is_text(self, city: City) -> None:
        incident_id = await open_claim(city)

        with pytest.raises(NotText):
            await ask_to_recover(incident_id, document_no="回单\x007")

    async def test_who_believes_another_sum_looks_again(self, city: City) -> None:
        incident_id = await open_claim(city)
        with pytest.raises(ClaimChanged) as at_the_maker:
            await ask_to_recover(incident_id, FEN, FEN + 1)
        await ask_to_recover(incident_id, 2_000)
        before = await everything()
        with pytest.raises(ClaimChanged) as at_the_checker:
            await end(incident_id, FEN)

        assert (at_the_maker.value.http_status, at_the_maker.value.code) == (412, "claim_changed")
        assert at_the_maker.value.details == {"claim_fen": FEN}
        assert at_the_checker.value.details == {"claim_fen": 2_000}
        assert await everything() == before

    async def test_the_maker_does_not_check_and_nobody_checks_nothing(self, city: City) -> None:
        incident_id = await open_claim(city)
        for deed in (end(incident_id), say_no(incident_id)):
            with pytest.raises(ClaimEndNotAsked):
                await deed
        person = uuid4()
        await ask_to_recover(incident_id, by="张伟（财务经办）", by_id=person)
        before = await everything()
        for deed in (
            end(incident_id, by="张卫（财务复核）", by_id=person),
            say_no(incident_id, by="张卫（财务复核）", by_id=person),
        ):
            with pytest.raises(SecondPersonNeeded):
                await deed

        assert await everything() == before

    async def test_there_is_one_wish_at_a_time_and_another_after_a_no(self, city: City) -> None:
        incident_id = await open_claim(city)
        await ask_to_recover(incident_id)
        with pytest.raises(ClaimEndAlreadyAsked):
            await ask_to_write_off(incident_id)
        with pytest.raises(InvalidInput):
            await say_no(incident_id, note=" ")

        await say_no(incident_id)
        await ask_to_write_off(incident_id, now=later(hours=33))

        wishes = await rows(
            "select kind, state, decision_note, transfer_id from claim_settlement order by asked_at"
        )
        assert wishes == [
            {"kind": "recovered", "state": "rejected", "decision_note": "回单对不上",
             "transfer_id": None},
            {"kind": "written_off", "state": "asked", "decision_note": "", "transfer_id": None},
        ]  # fmt: skip
        assert await balance(CLAIM) == FEN

    async def test_without_a_claim_there_is_nothing_to_end(self, city: City) -> None:
        other = await odd_money(city)
        for incident_id, refusal in ((uuid4(), IncidentNotFound), (other, NoClaim)):
            with pytest.raises(refusal):
                await ask_to_recover(incident_id)

    async def test_what_has_ended_does_not_end_again(self, city: City) -> None:
        incident_id = await open_claim(city)
        await ask_to_recover(incident_id)
        await end(incident_id)
        before = await everything()

        for deed in (ask_to_recover(incident_id), end(incident_id), say_no(incident_id)):
            with pytest.raises(IncidentAlreadyResolved):
                await deed

        assert await everything() == before

    async def test_while_another_refund_may_still_end_it_nothing_is_booked(
        self, city: City
    ) -> None:
        """Recovered and closed, the same money would be ours twice."""
        incident_id = await odd_money(city)
        first = await closed_refund(city, incident_id)
        await approve(await ask_refund(incident_id, FEN, FEN), now=later(hours=3))
        await send(city, later(hours=3, minutes=5))
        second = list(city.wechat.refunds)[-1]
        await give_back_after_all(city, first, later(hours=4))
        claim_id, _ = await the_claim()
        await ask_to_recover(claim_id)
        before = await everything()
        with pytest.raises(RefundUnderWay) as refused:
            await end(claim_id)
        unchanged = await everything()

        closed = city.wechat.finish(second, RefundStatus.CLOSED)
        await api.settle_batch([api.from_refund(closed)], now=later(hours=32))
        with pytest.raises(NoClaim):
            await end(claim_id, now=later(hours=33))

        assert refused.value.details == {"refund_no": second}
        assert unchanged == before
        assert (await balance(CLAIM), await balance(RECEIVED)) == (0, 0)
        await resolve(claim_id, later(hours=34))
        assert await broken_invariants() == {}

    async def test_two_checkers_at_once_book_it_once(self, city: City) -> None:
        incident_id = await open_claim(city)
        await ask_to_recover(incident_id)

        answers = await asyncio.gather(
            *(end(incident_id, by=f"checker {n}") for n in range(4)), return_exceptions=True
        )

        assert [type(answer) for answer in answers].count(str) == 1
        assert {type(answer) for answer in answers} <= {str, IncidentAlreadyResolved}
        assert (await balance(CLAIM), await balance(RECEIVED)) == (0, FEN)


async def say_no(incident_id: UUID, **changes: Any) -> None:
    values: dict[str, Any] = {"by": "checker", "note": "回单对不上", "now": later(hours=32)}
    await api.reject_ending_claim(incident_id=incident_id, **{**values, **changes})


async def test_the_office_sees_asks_checks_and_reads_what_became_of_a_claim(city: City) -> None:
    async with open_office(city) as office:
        incident_id = await open_claim(city)
        page = f"/staff/incidents/{incident_id}"
        form = {
            "claim_end": "recovered", "believed_fen": str(FEN), "claim_amount": "20.00",
            "received_on": "2026-08-03", "claim_document_no": "建行回单 7",
        }  # fmt: skip
        office.clock[0] = later(hours=30)
        await office.sit_down("operator")
        assert await office.post(f"{page}/claim", **form) == 403
        await office.sit_down("clerk")
        await office.get(page)
        for word in ("多退应收", "钱已追回", "经决定核销", 'value="50.00"', "填写追回",
                     "应收没有追回或核销"):  # fmt: skip
            assert word in office.text, word
        for wrong in ({"received_on": "昨天"}, {"claim_end": "lost"}, {"claim_amount": "1e3"},
                      {"claim_amount": "50.01"}, {"believed_fen": "x"}):  # fmt: skip
            assert await office.post(f"{page}/claim", **{**form, **wrong}) == 422, wrong
        assert await office.post(f"{page}/claim", **{**form, "believed_fen": "1"}) == 412
        assert "现应收 ¥ 50.00" in office.text
        assert await office.post(f"{page}/claim", **form) == 303
        await office.sit_down("checker")
        await office.get(page)
        for word in ("等待复核", "何敏（财务经办）", "建行回单 7", "批准追回"):
            assert word in office.text, word
        assert await office.post(f"{page}/claim/approve", believed_fen="1999") == 412
        assert await office.post(f"{page}/claim/approve", believed_fen="2000") == 303

        await office.get(page)
        assert 'value="30.00"' in office.text
        form |= {"claim_end": "written_off", "claim_amount": "30", "believed_fen": "3000",
                 "claim_reason": "市财政局决定", "received_on": ""}  # fmt: skip
        assert await office.post(f"{page}/claim", **form) == 303
        await office.get(page)
        assert "须由另一位复核人处理" in office.text
        assert await office.post(f"{page}/claim/approve", believed_fen="3000") == 403
        await office.sit_down("other_checker")
        assert await office.post(f"{page}/claim/reject", note=" ") == 422
        assert await office.post(f"{page}/claim/approve", believed_fen="3000") == 303

        await office.get(page)
        for word in ("已办结", "多退已追回", "多退已核销", "追回多退", "核销多退",
                     RECEIVED, LOST, "追回 ¥ 20.00，2026-08-03 到账（建行回单 7）"):  # fmt: skip
            assert word in office.text, word
        assert "填写追回" not in office.text
    assert await open_claim_fen("wechat_pay:1900000109", *await numbers()) == 0
    assert await broken_invariants() == {}


async def numbers() -> tuple[str, str]:
    """Ours and the channel's of the money."""
    (arrival,) = await rows(
        "select our_no, channel_no from ledger_transfer where kind = 'suspense'"
    )
    return str(arrival["our_no"]), str(arrival["channel_no"])


async def test_a_claim_talked_away_by_hand_breaks_its_rule(city: City) -> None:
    incident_id = await open_claim(city)
    rule = "a_claim_is_what_its_incidents_say"
    calm = await broken_invariants()
    await rows(
        "update incident set state = 'resolved', resolved_at = $2, resolved_by = 'x',"
        " resolution = 'x' where id = $1 returning id",
        incident_id,
        NOW,
    )

    found = await broken_invariants()

    assert rule not in calm
    assert found[rule] == [f"wechat_pay:1900000109 {(await numbers())[1]}"]
