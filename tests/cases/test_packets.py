"""Replicated cases: the newest picture, seen by its parties only."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from estation.cases import packets
from estation.cases.errors import CaseNotFound
from estation.cases.models import Case, CaseParty
from estation.cases.queries import case_of, cases_of
from estation.identity.models import Person
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import CaseRow, StageRow
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
