"""The demo city: believable, complete, the same every time."""

import json
from datetime import date
from typing import Any

from estation.inner import identifiers, personas
from estation.inner.rules import Stage
from estation.inner.seed import seed_city, worked
from estation.inner.seed.plan import CityPlan, plan_city
from estation.settings import InnerSettings
from estation.shared.identity_papers import RESIDENT_CARD, valid_paper
from tests.inner.conftest import NOW
from tests.inner.desk import query

GATE_AND_STAFF = """select max(id) as newest, (select count(*) from desk_user) as staff
                    from gate_outgoing_row"""


async def seeded(settings: InnerSettings) -> list[tuple[str, int, int]]:
    steps: list[tuple[str, int, int]] = []
    report = await seed_city(now=NOW, progress=lambda *step: steps.append(step), settings=settings)
    assert report.made
    return steps


async def count(sql: str) -> int:
    rows = await query(f"select count(*) as n from {sql}")
    number: int = rows[0]["n"]
    return number


async def test_the_city_has_its_size_and_all_of_it_crosses(
    empty_inner: str, inner_settings: InnerSettings
) -> None:
    steps = await seeded(inner_settings)

    assert (await count("district"), await count("hall"), await count("unit")) == (3, 2, 500)
    assert await count("case_file") == 300
    bills = await count("fee_bill")
    assert 190 <= bills <= 210
    assert await count("fee_bill where state = 'withdrawn'") == 10
    assert await count("fee_bill where state = 'issued' and version = 2") == 10
    assert await count("fee_bill where state = 'paid'") == 0
    assert await count("gate_outgoing_row where topic = 'case'") == 300
    assert await count("gate_outgoing_row where topic = 'fee_bill'") == bills + 20
    assert await count("gate_outgoing_row where topic = 'unit'") == 500
    assert await count("gate_outgoing_row where topic = 'right'") == 512
    assert await count("gate_outgoing_row where topic = 'certificate'") == 512
    assert await count("gate_outgoing_row where topic = 'restriction'") == 3
    assert [step[0] for step in steps] == [
        "不动产单元",
        "办件",
        "缴费单",
        "修改与撤回",
        "登记簿",
    ]


async def test_cases_stand_at_every_box_of_the_flow_chart(
    empty_inner: str, inner_settings: InnerSettings
) -> None:
    await seeded(inner_settings)

    doing = {
        row["stage"]
        for row in await query("select distinct stage from case_stage where state = 'doing'")
    }
    states = {row["state"] for row in await query("select distinct state from case_file")}

    assert doing == {stage.value for stage in Stage}
    assert states == {"open", "closed", "withdrawn"}
    assert await count("case_file where opened_at > now()") == 0


async def test_every_bill_is_the_sum_of_its_items_and_of_its_worked_case(
    empty_inner: str, inner_settings: InnerSettings
) -> None:
    await seeded(inner_settings)

    wrong = await query(
        """select v.bill_id from fee_bill_version v
           where v.total_fen <> (select sum(i.amount_fen) from fee_bill_item i
                                 where i.bill_id = v.bill_id and i.version = v.version)"""
    )
    newest = await query(
        """select b.title, b.total_fen, p.role,
             array_agg(i.code || '=' || i.amount_fen order by i.seq) as items
           from fee_bill b join case_party p on p.id = b.payer_id
             join fee_bill_item i on i.bill_id = b.id and i.version = b.version
           group by b.id, b.title, b.total_fen, p.role"""
    )

    assert wrong == []
    known = expected_bills()
    assert [row for row in newest if (row["total_fen"], tuple(row["items"])) not in known] == []


def expected_bills() -> set[tuple[int, tuple[str, ...]]]:
    """Read from the file of worked cases on its own, not through the seed's code."""

    def fen(yuan: str) -> int:
        return int(yuan.replace(".", ""))

    expected = set()
    for case in json.loads(worked.FILE.read_text(encoding="utf-8"))["cases"]:
        for payer, total in case["expected_totals"].items():
            items = [row for row in case["expected_items"] if row["payer"] == payer]
            texts = tuple(f"{row['code']}={fen(row['amount'])}" for row in items)
            expected.add((fen(total), texts))
    return expected


async def test_the_personas_find_their_bills(
    empty_inner: str, inner_settings: InnerSettings
) -> None:
    await seeded(inner_settings)

    rows = await query(
        """select p.name, b.total_fen, b.state, b.version, p.phone, p.id_no,
             (select array_agg(distinct payee_code) from fee_bill_item i
              where i.bill_id = b.id and amount_fen > 0) as payees
           from fee_bill b join case_party p on p.id = b.payer_id
           where p.id_no = any($1::text[]) order by p.name, b.total_fen""",
        [personas.BUYER.id_no, personas.SELLER.id_no],
    )

    assert [(row["name"], row["total_fen"], sorted(row["payees"])) for row in rows] == [
        ("周建国", 850_000, ["treasury"]),
        ("林晓舟", 858_000, ["non_tax", "treasury"]),
        ("林晓舟", 1_668_000, ["maintenance_fund", "non_tax", "treasury"]),
    ]
    assert {(row["state"], row["version"]) for row in rows} == {("issued", 1)}
    assert {row["phone"] for row in rows} == {personas.BUYER.phone, personas.SELLER.phone}


async def test_every_number_of_the_city_is_well_formed(
    empty_inner: str, inner_settings: InnerSettings
) -> None:
    await seeded(inner_settings)

    parties = await query("select distinct id_type, id_no, phone from case_party")
    units = await query("select unit_code, district_id from unit")

    assert [
        row for row in parties
        if not valid_paper(row["id_type"], row["id_no"], today=date(2026, 11, 23))
        or not row["phone"].startswith("138000")
    ] == []  # fmt: skip
    assert [row for row in units if not identifiers.valid_unit_code(row["unit_code"])] == []
    assert [row for row in units if not row["unit_code"].startswith(row["district_id"])] == []


async def test_no_phone_belongs_to_two_people(
    empty_inner: str, inner_settings: InnerSettings
) -> None:
    await seeded(inner_settings)

    shared: list[dict[str, Any]] = await query(
        "select phone from case_party group by phone having count(distinct id_no) > 1"
    )

    assert shared == []


async def test_a_second_seeding_does_nothing(
    empty_inner: str, inner_settings: InnerSettings
) -> None:
    await seeded(inner_settings)
    before = await query(GATE_AND_STAFF)

    report = await seed_city(now=NOW, progress=lambda *_: None, settings=inner_settings)

    assert not report.made
    assert report.cases == 300
    assert await query(GATE_AND_STAFF) == before


def test_the_plan_is_the_same_for_the_same_day() -> None:
    assert plan_city(NOW) == plan_city(NOW)


def test_every_taxed_item_says_how_it_came_about_and_by_what_law() -> None:
    bills = [bill for case in worked.worked_cases().values() for bill in case.bills]

    assert set(worked.worked_cases()) == set(worked.USED)
    assert [item for bill in bills for item in bill.items if not item.formula] == []
    assert [item for bill in bills for item in bill.items if not item.legal_basis] == []
    deed = worked.worked_cases()["T01"].bills[1].items[0]
    assert deed.formula == "850,000.00 元 × 1% = 8,500.00 元"


def test_percent_is_exact() -> None:
    cases = {"0.01": "1%", "0.015": "1.5%", "0.2": "20%", "0.0005": "0.05%", "0.03": "3%"}

    assert {rate: worked.percent(rate) for rate in cases} == cases


def test_a_county_centre_has_only_what_lies_there_and_people_of_its_own() -> None:
    city, county = plan_city(NOW), plan_city(NOW, region="360121")

    assert {unit.district for unit in county.units} == {"360121"}
    assert {one.case.unit_code for one in county.cases} <= {u.unit_code for u in county.units}
    assert sum(len(one.bills) for one in county.cases) > 5
    ours, theirs = _persons(county), _persons(city)
    assert ours & theirs == {(personas.BUYER.phone, personas.BUYER.id_no)}


def _persons(plan: CityPlan) -> set[tuple[str, str]]:
    parties = [party for one in plan.cases for party in one.case.parties]
    return {(one.phone, one.id_no) for one in parties if one.id_type == RESIDENT_CARD}
