"""Replicated cases: the newest picture, seen by its parties only."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from estation.cases import packets
from estation.cases.errors import CaseNotFound
from estation.cases.models import Case, CaseEvent, CaseParty, CaseVersion
from estation.cases.queries import case_of, cases_of
from estation.identity.models import Person
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import AsSent, CaseEventRow, CaseRow, StageRow, as_sent
from estation.shared.transactions import in_transaction
from tests.identity.people import ANNA, BO, NOW, VAULT

pytestmark = pytest.mark.usefixtures("database")

STAGES = [
    StageRow(stage="tax", state="doing"),
    StageRow(stage="contract", state="done", at=NOW),
]


def case(version: int = 1, **changes: Any) -> CaseRow:
    row = CaseRow(
        source="jc", source_id="c1", version=version, region="360101", case_no="202603010001",
        matter="RESALE_TRANSFER", hall="滨江大厅", unit_code="360102001001GB00012F00031202",
        address="江城市沿江大道18号", opened_at=NOW, state="open", parties=[ANNA, BO],
        stages=STAGES,
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


async def arrive(*rows: CaseRow) -> None:
    async with in_transaction():
        await packets.make_handler(VAULT)(rows, Arrival("jc-online", 1, NOW))


async def person(id_no: str) -> Person:
    return await Person.get(id_no_index=VAULT.index(f"1:{id_no}"))


async def test_a_party_sees_the_chart_in_order_and_the_other_party_masked() -> None:
    await arrive(case())
    anna = await person(ANNA.id_no)

    (listed,) = await cases_of(anna.id)
    shown = await case_of(anna.id, listed.id, vault=VAULT)

    assert [stage.stage for stage in shown.stages] == ["contract", "tax"]
    assert shown.my_roles == ("买方",)
    assert [(party.role_word, party.name) for party in shown.parties] == [("卖方", "周*国")]


async def test_a_stranger_does_not_find_it() -> None:
    await arrive(case(parties=[BO]), case(source_id="c2", parties=[ANNA]))
    anna = await person(ANNA.id_no)
    foreign = await Case.get(source_id="c1")

    with pytest.raises(CaseNotFound):
        await case_of(anna.id, foreign.id, vault=VAULT)


async def test_only_a_newer_version_changes_the_picture_and_its_parties() -> None:
    await arrive(case(version=2, parties=[ANNA]))
    await arrive(case(version=1))
    await arrive(case(version=2))

    assert await CaseParty.all().count() == 1
    await arrive(case(version=3, state="closed", parties=[ANNA, BO]))
    assert await CaseParty.all().count() == 2
    assert (await Case.get()).state == "closed"


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "lost"},
        {"stages": [StageRow(stage="party", state="done")]},
        {"stages": [StageRow(stage="tax", state="perhaps")]},
        {"version": 0},
        {"parties": [msgspec.structs.replace(ANNA, name="")]},
    ],
)
async def test_a_case_that_cannot_be_right_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RowRefused):
        await arrive(case(**changes))

    assert await Case.all().count() == 0


async def test_an_address_book_of_later_news_wins_over_earlier() -> None:
    moved = msgspec.structs.replace(ANNA, phone="13900000009")
    await arrive(case(version=2, parties=[moved]))
    async with in_transaction():
        await packets.make_handler(VAULT)(
            [case(version=1)], Arrival("jc-online", 0, NOW - timedelta(days=1))
        )

    assert (await person(ANNA.id_no)).phone_index == VAULT.index("phone:13900000009")


@pytest.mark.parametrize("source", ["county", "j", "", "jc-online", "jc-"])
async def test_a_sender_may_not_speak_for_another_source(source: str) -> None:
    with pytest.raises(RowRefused, match="source"):
        await arrive(case(source=source))

    assert await Case.all().count() == 0


def event(number: int = 1, **changes: Any) -> CaseEventRow:
    row = CaseEventRow(
        source="jc", source_id=f"c1-{number}", region="360101", case_source_id="c1", seq=number,
        what="stage_moved", stage="contract", state="doing", at=NOW - timedelta(hours=2),
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


async def events_arrive(*rows: CaseEventRow, sent: Sequence[AsSent] = ()) -> None:
    async with in_transaction():
        await packets.make_event_handler(VAULT)(rows, Arrival("jc-online", 2, NOW, sent))


async def test_the_chart_says_when_work_on_a_stage_began() -> None:
    begun, again = NOW - timedelta(hours=3), NOW - timedelta(hours=1)
    await events_arrive(
        event(1, at=begun), event(2, state="returned"), event(3, at=again), event(4, state="done")
    )
    await events_arrive(
        event(5, stage="tax", at=again), event(6, what="closed", stage="", state="closed")
    )
    await arrive(case())
    anna = await person(ANNA.id_no)

    (listed,) = await cases_of(anna.id)
    shown = await case_of(anna.id, listed.id, vault=VAULT)

    contract, tax = shown.stages
    assert (contract.at, contract.begun_at) == (NOW, again)
    assert (tax.at, tax.begun_at) == (again, None)


async def test_a_chart_without_events_is_as_before() -> None:
    await arrive(case())
    anna = await person(ANNA.id_no)
    (listed,) = await cases_of(anna.id)

    shown = await case_of(anna.id, listed.id, vault=VAULT)

    assert [(stage.at, stage.begun_at) for stage in shown.stages] == [(NOW, None), (None, None)]


async def test_events_of_another_sources_case_of_the_same_number_stay_out_of_the_chart() -> None:
    await arrive(case())
    async with in_transaction():
        await packets.make_event_handler(VAULT)(
            [event(source="county", stage="tax")], Arrival("county-online", 1, NOW)
        )
    anna = await person(ANNA.id_no)
    (listed,) = await cases_of(anna.id)

    shown = await case_of(anna.id, listed.id, vault=VAULT)

    assert [stage.at for stage in shown.stages] == [NOW, None]


async def test_an_event_happens_once() -> None:
    await events_arrive(event(), event())
    before = await CaseEvent.get()

    await events_arrive(event(), event(2))
    await events_arrive(event(note="anders"))

    assert await CaseEvent.all().count() == 2
    assert await CaseEvent.get(source_id="c1-1") == before
    assert (await CaseEvent.get(source_id="c1-1")).note == ""


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"stage": ""}, "stage"),
        ({"stage": "party"}, "stage"),
        ({"state": "open"}, "state"),
        ({"what": "closed"}, "stage"),
        ({"what": "opened", "stage": "", "state": "doing"}, "state"),
        ({"source": "county"}, "source"),
    ],
)
async def test_an_event_that_cannot_be_right_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(RowRefused, match=f"case_event c1-2: {word}"):
        await events_arrive(event(), event(2, **changes))

    assert await CaseEvent.all().count() == 0


async def test_every_version_of_a_case_is_kept_as_it_came() -> None:
    third = case(version=3, state="closed")
    sent = as_sent(msgspec.json.encode({**msgspec.to_builtins(third), "lottery": 7}), third)
    async with in_transaction():
        await packets.make_handler(VAULT)([third], Arrival("jc-online", 1, NOW, [sent]))
    await arrive(case(version=1), case(version=2))
    await arrive(case(version=2, address="anderswo"))

    versions = await CaseVersion.all().order_by("version")
    row = await Case.get()

    assert [one.version for one in versions] == [1, 2, 3]
    assert VAULT.open(versions[2].body_sealed).encode() == sent.body
    assert bytes(row.row_digest or b"") == bytes(versions[2].row_digest) == sent.digest
    assert ANNA.name.encode() not in bytes(versions[0].body_sealed)


async def test_a_county_writes_no_case_and_no_event_of_another_region() -> None:
    arrival = Arrival("jc-online", 1, NOW, regions=("360121",))
    with pytest.raises(RowRefused, match="case c1 v1: region"):
        await packets.make_handler(VAULT)([case()], arrival)
    with pytest.raises(RowRefused, match="case_event c1-1: region"):
        await packets.make_event_handler(VAULT)([event()], arrival)

    assert await Case.all().count() == await CaseEvent.all().count() == 0
