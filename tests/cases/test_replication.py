"""Cases in bulk, in any order, and what each viewer may learn of the others."""

import time
from uuid import uuid4

import msgspec
import pytest
from tortoise import Tortoise

from estation.cases.errors import CaseNotFound
from estation.cases.models import Case, CaseParty
from estation.cases.queries import case_of, cases_of
from estation.cases.rules import STAGE_STATES, STAGES
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.rows import PartyRow, StageRow
from tests.cases.test_packets import arrive, case, person
from tests.identity.people import ANNA, BO, NOW, VAULT

pytestmark = pytest.mark.usefixtures("database")

BANK = PartyRow(
    role="mortgagee", name="江城银行股份有限公司", id_type="8", id_no="91350100M000100Y43", phone=""
)


async def test_the_chart_speaks_the_citizens_language_in_the_offices_order() -> None:
    states = list(STAGE_STATES)
    shuffled = [StageRow(stage=stage, state=states[n]) for n, stage in enumerate(STAGES)][::-1]
    await arrive(case(stages=shuffled))
    anna = await person(ANNA.id_no)

    (shown,) = await cases_of(anna.id)

    assert [(stage.name, stage.word) for stage in shown.stages] == [
        ("网签", "未开始"),
        ("资金托管", "办理中"),
        ("抵押", "已完成"),
        ("纳税", "不需要"),
        ("登记", "已退回"),
    ]
    assert shown.data_as_of == NOW


async def test_people_are_masked_for_each_other_and_companies_are_not() -> None:
    await arrive(case(parties=[ANNA, BO, BANK]))
    anna = await person(ANNA.id_no)
    (listed,) = await cases_of(anna.id)

    shown = await case_of(anna.id, listed.id, vault=VAULT)

    assert listed.parties == ()
    assert {(party.role_word, party.name) for party in shown.parties} == {
        ("卖方", "周*国"),
        ("抵押权人", "江城银行股份有限公司"),
    }


async def test_a_person_with_two_roles_sees_both_and_one_case() -> None:
    await arrive(case(parties=[ANNA, msgspec.structs.replace(ANNA, role="owner"), BO]))
    anna = await person(ANNA.id_no)

    (shown,) = await cases_of(anna.id)

    assert shown.my_roles == ("买方", "权利人")


async def test_no_such_case_and_somebody_elses_look_the_same() -> None:
    await arrive(case(parties=[BO]))
    (foreign,) = await Case.all()

    for case_id in (foreign.id, uuid4()):
        with pytest.raises(CaseNotFound):
            await case_of(uuid4(), case_id, vault=VAULT)


async def test_versions_in_any_order_in_one_packet_end_in_the_newest() -> None:
    await arrive(case(version=2, parties=[ANNA]), case(version=3, parties=[BO]), case(version=1))

    row = await Case.get()
    bo = await person(BO.id_no)
    assert row.version == 3
    assert [party.person_id async for party in CaseParty.all()] == [bo.id]


async def test_a_box_cannot_stand_twice_in_the_chart() -> None:
    twice = [StageRow(stage="tax", state="done"), StageRow(stage="tax", state="doing")]

    with pytest.raises(RowRefused, match="case c1 v1: stage"):
        await arrive(case(stages=twice))

    assert await Case.all().count() == 0


async def test_a_refused_party_names_its_case_and_nobody() -> None:
    bad = msgspec.structs.replace(BO, id_no="440524188001010015")

    with pytest.raises(RowRefused) as refused:
        await arrive(case(), case(source_id="c2", parties=[ANNA, bad]))

    assert str(refused.value) == "case c2 v1: party id_no"
    assert await Case.all().count() == 0


async def test_a_big_packet_arrives_whole_and_a_repeat_moves_no_row() -> None:
    rows = [case(source_id=f"c{n}") for n in range(5_000)]
    begun = time.perf_counter()
    await arrive(*rows)
    seconds = time.perf_counter() - begun
    places = await _places()

    await arrive(*rows)

    assert await CaseParty.all().count() == 10_000
    assert await _places() == places
    assert seconds < 20, seconds  # about one on an idle machine


async def _places() -> set[str]:
    """Where each row lies in its table: a row that was written again lies elsewhere."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select ctid::text as place from case_record"
        " union all select ctid::text || 'p' from case_party"
    )
    return {row["place"] for row in rows}
