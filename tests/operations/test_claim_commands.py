"""Claims and refunds paid by hand end at the command line as at the pages: by the same two
persons, with the same paper, or not at all."""

import json
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from estation.cli import main
from estation.commanding import on_online
from estation.identity.api import ensure_staff
from estation.ledger.api import balance
from estation.outside.pay_channels import RefundStatus
from estation.payments import api
from estation.payments.errors import (
    ClaimChanged,
    ClaimEndAlreadyAsked,
    NoClaim,
    NotYourIncident,
    RefundNotRedirected,
    RefundUnderWay,
    SecondPersonNeeded,
)
from estation.payments.invariants import broken_invariants
from estation.shared.money import NotMoney
from tests.payments import test_claims as at_the_pages
from tests.payments.city import City, later, rows
from tests.payments.fakes import NOW
from tests.payments.office import PASSWORD
from tests.payments.test_asked_refunds import approve, send
from tests.payments.test_claims import CLAIM, LOST, RECEIVED, open_claim
from tests.payments.test_closed_and_given_back import (
    closed_refund,
    give_back_after_all,
    the_claim,
)
from tests.payments.test_paid_by_hand import REFUND, at_our_card
from tests.payments.test_second_person import abnormal
from tests.payments.test_settled_outside import FEN, ask_refund, odd_money

NOBODY = "没有这个登录名的工作人员"


@pytest.fixture(autouse=True)
def _city(own_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTATION_DATABASE_URL", own_database_url)


def estation(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output.replace("\n", "")


def listed() -> Any:
    code, said = estation("claims", "list", "--json")
    assert code == 0
    return json.loads(said)


async def an_office() -> None:
    for login, name, role in (
        ("caiwu", "何敏", "finance_clerk"),
        ("fuhe", "罗建平", "finance_checker"),
        ("yunwei", "丁一", "operator"),
    ):
        await ensure_staff(login=login, name=name, role=role, password=PASSWORD, now=NOW)


@pytest.fixture
def claim(_city: None) -> UUID:
    async def make() -> UUID:
        await an_office()
        return await open_claim(City())

    return on_online(make)


@pytest.fixture
def refund_incident(_city: None) -> UUID:
    """Of a redirected refund that is at our own card."""

    async def make() -> UUID:
        await an_office()
        await at_our_card(City())
        (found,) = await rows("select id from incident where kind = 'refund_abnormal'")
        return UUID(str(found["id"]))

    return on_online(make)


def recovered(claim: UUID, *, by: str = "caiwu", approved_by: str = "fuhe", **changes: str) -> Any:
    of = {"of": "50.00"} if "amount" in changes else {}
    values = {"received-on": "2026-08-03", "document-no": "建行回单 7", **of, **changes}
    options = [word for name, value in values.items() for word in (f"--{name}", value)]
    return estation(
        "claims", "recovered", str(claim), *options, "--by", by, "--approved-by", approved_by
    )


def written_off(claim: UUID, *, by: str = "caiwu", approved_by: str = "fuhe") -> Any:
    return estation(
        "claims", "written-off", str(claim), "--document-no", "江财核〔2026〕9号", "--reason",
        "市财政局决定：付款人下落不明", "--by", by, "--approved-by", approved_by,
    )  # fmt: skip


def by_hand(incident: UUID, *, by: str = "caiwu", approved_by: str = "fuhe", no: str = "9") -> Any:
    return estation(
        "refunds", "paid-by-hand", str(incident), "--document-no", no, "--by", by,
        "--approved-by", approved_by,
    )  # fmt: skip


def balances(*accounts: str) -> list[int]:
    async def read() -> list[int]:
        return [await balance(one) for one in accounts]

    return on_online(read)


def everything() -> Any:
    return on_online(at_the_pages.everything)


def deeds(*, of: str) -> Any:
    return on_online(
        lambda: rows(
            """select a.action, s.login, a.note from incident_action a
               join staff_user s on s.id = a.by_id where a.action like $1 order by a.at""",
            f"%{of}%",
        )
    )


def test_an_open_claim_is_listed_with_its_sum_and_what_hinders_it(claim: UUID) -> None:
    (trade,) = on_online(lambda: rows("select channel_trade_no from incident where id = $1", claim))

    told = listed()

    assert told["open"] == 1
    (one,) = told["claims"]
    assert one.pop("due")
    assert one == {
        "incident": str(claim),
        "account": "wechat_pay:1900000109",
        "trade": trade["channel_trade_no"],
        "claim": "50.00",
        "asked": "",
        "refund_under_way": "",
    }
    assert "50.00" in estation("claims", "list")[1]


def test_two_incidents_of_one_claim_are_one_in_the_list(claim: UUID) -> None:
    on_online(
        lambda: rows(
            """insert into incident (id, dedupe_key, kind, state, owner, channel, account_id,
                   out_trade_no, channel_trade_no, amount_fen, order_id, evidence, opened_at,
                   due_at, resolved_by, resolution, assigned_to)
               select gen_random_uuid(), 'twin', kind, state, owner, channel, account_id,
                   out_trade_no, channel_trade_no, amount_fen, order_id, evidence, opened_at,
                   due_at + interval '1 hour', resolved_by, resolution, assigned_to
               from incident where id = $1 returning id""",
            claim,
        )
    )

    told = listed()

    assert (told["open"], [one["incident"] for one in told["claims"]]) == (1, [str(claim)])


def test_what_came_back_is_booked_in_part_and_the_rest_written_off(claim: UUID) -> None:
    first = recovered(claim, amount="20.00")
    left = listed()["claims"][0]["claim"]
    second = written_off(claim)

    assert (first[0], left, second[0]) == (0, "30.00", 0)
    assert balances(CLAIM, RECEIVED, LOST) == [0, 2_000, 3_000]
    assert listed() == {"open": 0, "claims": []}
    words = "追回 ¥ 20.00，2026-08-03 到账（建行回单 7）"
    assert deeds(of="claim")[:2] == [
        {"action": "claim_asked", "login": "caiwu", "note": words},
        {"action": "claim_recovered", "login": "fuhe", "note": words},
    ]
    assert [one["action"] for one in deeds(of="claim")[2:]] == ["claim_asked", "claim_written_off"]
    assert on_online(broken_invariants) == {}


def test_a_part_is_booked_once_though_its_command_is_given_twice(claim: UUID) -> None:
    first = recovered(claim, amount="20.00", of="50.00")
    before = everything()

    again = recovered(claim, amount="20.00", of="50.00")
    without_the_whole = recovered(claim, amount="20.00", of="")
    without_the_part = recovered(claim, of="30.00")

    assert first[0] == 0
    assert again == (2, ClaimChanged.message)
    for code, said in (without_the_whole, without_the_part):
        assert (code, "--of" in said) == (2, True)
    assert everything() == before


def test_one_person_or_one_of_another_post_ends_no_claim(claim: UUID) -> None:
    before = everything()

    for by, approved_by, words in (
        ("fuhe", "fuhe", SecondPersonNeeded.message),
        ("fuhe", "caiwu", NotYourIncident.message),
        ("yunwei", "fuhe", NotYourIncident.message),
        ("caiwu", "yunwei", NotYourIncident.message),
        ("caiwu", "nobody", NOBODY),
        ("罗建平", "fuhe", NOBODY),
    ):
        for command in (recovered, written_off):
            code, said = command(claim, by=by, approved_by=approved_by)

            assert (code, words in said) == (2, True), (by, approved_by, said)
    assert everything() == before


def test_a_wrong_paper_or_sum_ends_no_claim(claim: UUID) -> None:
    before = everything()

    for wrong in (
        {"amount": "50.01"},
        {"amount": "0"},
        {"amount": "1e3"},
        {"document-no": " "},
        {"document-no": "a\x00b"},
        {"received-on": "9999-01-01"},
        {"received-on": "yesterday"},
    ):
        code, said = recovered(claim, **wrong)

        assert (code, bool(said)) == (2, True), wrong
        assert (NotMoney.message in said) == (wrong.get("amount") == "1e3")
    assert everything() == before


def test_what_waits_for_a_checker_at_the_page_is_answered_there(claim: UUID) -> None:
    on_online(lambda: at_the_pages.ask_to_recover(claim, 2_000))

    waiting = listed()["claims"][0]["asked"]
    before = everything()
    code, said = recovered(claim)

    assert "追回 ¥ 20.00" in waiting
    assert code == 2
    assert ClaimEndAlreadyAsked.message in said
    assert everything() == before


async def two_on_their_way(city: City) -> UUID:
    """A closed refund arrived after all while a second one was under way; the claim's incident."""
    await an_office()
    incident_id = await odd_money(city)
    first = await closed_refund(city, incident_id)
    await approve(await ask_refund(incident_id, FEN, FEN), now=later(hours=3))
    await give_back_after_all(city, first, later(hours=4))
    return (await the_claim())[0]


def test_while_another_refund_of_the_money_is_under_way_nothing_is_booked() -> None:
    claim = on_online(lambda: two_on_their_way(City()))
    before = everything()

    code, said = recovered(claim)

    assert listed()["claims"][0]["refund_under_way"]
    assert code == 2
    assert RefundUnderWay.message in said
    assert everything() == before, "the maker's half is gone with the checker's"


def test_what_is_no_claim_is_not_ended(claim: UUID) -> None:
    (other,) = on_online(lambda: rows("select id from incident where kind = 'contradicting_news'"))
    assert recovered(claim)[0] == 0

    assert recovered(UUID(str(other["id"])))[1] == NotYourIncident.message
    assert recovered(claim)[1] == NotYourIncident.message, "its incident is over"


def test_a_claim_that_ended_by_itself_is_neither_listed_nor_booked() -> None:
    async def the_other_closed() -> UUID:
        city = City()
        claim = await two_on_their_way(city)
        await send(city, later(hours=5))
        closed = city.wechat.finish(list(city.wechat.refunds)[-1], RefundStatus.CLOSED)
        await api.settle_batch([api.from_refund(closed)], now=later(hours=6))
        return claim

    claim = on_online(the_other_closed)

    assert listed() == {"open": 0, "claims": []}
    assert recovered(claim) == (2, NoClaim.message)


def test_a_refund_paid_by_hand_is_booked_by_two_persons(refund_incident: UUID) -> None:
    code, _ = by_hand(refund_incident)
    again = by_hand(refund_incident)

    assert (code, again) == (0, (2, NotYourIncident.message))
    assert balances(RECEIVED) == [REFUND]
    assert deeds(of="hand") == [
        {"action": "hand_asked", "login": "caiwu", "note": "9"},
        {"action": "paid_by_hand", "login": "fuhe", "note": "9"},
    ]
    assert on_online(broken_invariants) == {}


def test_one_person_or_no_paper_books_nothing_as_paid_by_hand(refund_incident: UUID) -> None:
    before = everything()

    for changes, words in (
        ({"by": "fuhe"}, SecondPersonNeeded.message),
        ({"approved_by": "caiwu"}, NotYourIncident.message),
        ({"by": "yunwei"}, NotYourIncident.message),
        ({"approved_by": "nobody"}, NOBODY),
        ({"no": " "}, "填写的内容"),
    ):
        code, said = by_hand(refund_incident, **changes)

        assert (code, words in said) == (2, True), (changes, said)
    assert everything() == before


def test_what_is_not_at_our_card_was_not_paid_out() -> None:
    async def stuck() -> UUID:
        await an_office()
        await abnormal(City())
        (found,) = await rows("select id from incident where kind = 'refund_abnormal'")
        return UUID(str(found["id"]))

    incident = on_online(stuck)

    assert by_hand(incident) == (2, RefundNotRedirected.message)
    assert balances(RECEIVED) == [0]
