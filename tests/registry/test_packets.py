"""The register as it arrives: newest wins, every version stays, bad rows change nothing."""

import hashlib
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from tortoise import Tortoise

from estation.outside.gate import keys, receiving, replicas, sending
from estation.outside.gate.errors import Reason, RowRefused
from estation.outside.gate.receiving import ReceiveReport
from estation.outside.gate.rows import BadRow, HolderRow, as_sent, digest
from estation.outside.gate.scope import Scope
from estation.registry import packets
from estation.registry.api import (
    CertificateNotFound,
    UnitNotFound,
    certificate_by_number,
    restrictions_of_unit,
    rights_of_holder,
    rights_of_unit,
    unit_by_code,
    versions_of,
)
from estation.registry.models import RegistryHolder
from tests.identity.people import ANNA, BO, NOW, VAULT
from tests.outside.gate_side import PRIVATE, PUBLIC, STREAM, T0
from tests.registry.rows import (
    BANK,
    NUMBER,
    OTHER,
    OWNER,
    UNIT,
    arrive,
    certificate,
    mortgage,
    restriction,
    right,
    unit,
    with_unknown,
)

pytestmark = pytest.mark.usefixtures("database")

TABLES = (
    "registry_unit",
    "registry_right",
    "registry_restriction",
    "registry_certificate",
    "registry_holder",
    "registry_version",
)


async def everything() -> list[dict[str, Any]]:
    """Every row with its place: one that was written again lies elsewhere."""
    db = Tortoise.get_connection("default")
    return [
        row
        for table in TABLES
        for row in await db.execute_query_dict(
            f"select ctid::text as place, t::text as row from {table} t order by id"
        )
    ]


async def test_a_unit_is_found_by_its_code_as_it_is_printed() -> None:
    await arrive(unit())

    shown = await unit_by_code("360102 001001 gb00012 f00031202")

    assert (shown.unit_code, shown.building_area, shown.room) == (UNIT, 895_000, "1202")
    assert shown.data_as_of == NOW
    with pytest.raises(UnitNotFound):
        await unit_by_code("360102001001GB00012F00031203")


async def test_a_unit_shows_its_rights_and_what_stands_in_their_way() -> None:
    await arrive(right(), mortgage(), right(3, state="historical", holders=[OTHER]))
    await arrive(restriction(2, queue_position=1, state="queued"), restriction())

    rights = await rights_of_unit(UNIT, vault=VAULT)
    restrictions = await restrictions_of_unit(UNIT)

    assert sorted((one.state, one.kind, one.holders[0].name) for one in rights) == [
        ("current", "mortgage", BANK.name),
        ("current", "ownership", ANNA.name),
        ("historical", "ownership", BO.name),
    ]
    assert rights[2].state == "historical"
    assert [one.secured_fen for one in rights if one.kind == "mortgage"] == [60_000_000]
    assert [one.source_id for one in restrictions] == ["x1", "x2"]


async def test_a_holder_finds_what_is_theirs_and_nobody_elses() -> None:
    shared = [
        msgspec.structs.replace(OWNER, share_numerator=1, share_denominator=3),
        msgspec.structs.replace(OTHER, share_numerator=2, share_denominator=3),
    ]
    await arrive(right(holding="shares", holders=shared), right(2, holders=[OTHER]))

    annas = await rights_of_holder("1", ANNA.id_no.lower(), vault=VAULT)
    bos = await rights_of_holder("1", BO.id_no, vault=VAULT)

    assert [one.source_id for one in annas] == ["r1"]
    assert [(h.share_numerator, h.share_denominator) for h in annas[0].holders] == [(1, 3), (2, 3)]
    assert {one.source_id for one in bos} == {"r1", "r2"}
    assert await rights_of_holder("3", ANNA.id_no, vault=VAULT) == []


async def test_names_and_numbers_lie_sealed() -> None:
    await arrive(right(), mortgage())
    await arrive(certificate())

    stored = str(await everything())

    for secret in (ANNA.name, ANNA.id_no, BANK.name, BANK.id_no):
        assert secret not in stored
        assert secret.encode().hex() not in stored


@pytest.mark.parametrize(
    "spelling",
    [
        NUMBER,
        "赣(2026)江城市不动产权第0000123号",
        "赣 （2026） 江城市 不动产权 第 0000123 号",
        "赣(2026)江城市不动产权第123号",
        "赣（２０２６）江城市不动产权第０００００１２３号",
        "赣〔2026〕江城市不动产权第000123号",
        "赣（2026）江城市不动产权第0000123号（销）",
    ],
)
async def test_a_certificate_is_found_in_every_usual_spelling(spelling: str) -> None:
    await arrive(certificate())

    found = await certificate_by_number(spelling, vault=VAULT)

    assert (found.number, found.unit_codes) == (NUMBER, (UNIT,))
    assert found.holders[0].id_no == ANNA.id_no


async def test_another_certificate_is_not_found() -> None:
    await arrive(certificate(), certificate(2, number="江房权证字第 3321 号", kind="legacy"))

    for other in (
        "赣（2026）江城市不动产权第0000124号",
        "赣（2025）江城市不动产权第0000123号",
        "赣（2026）江城市不动产证明第0000123号",
        "",
    ):
        with pytest.raises(CertificateNotFound):
            await certificate_by_number(other, vault=VAULT)
    assert (await certificate_by_number("江房权证字第3321号", vault=VAULT)).source_id == "c2"


@pytest.mark.parametrize("row", [unit(), right(), restriction(), certificate()])
async def test_a_repeat_writes_no_row_again(row: Struct) -> None:
    await arrive(row)
    before = await everything()

    await arrive(row, row, at=NOW + timedelta(hours=1))

    assert await everything() == before


async def test_versions_in_any_order_end_in_the_newest_and_all_are_kept() -> None:
    await arrive(right(version=3, holders=[OTHER]), right(version=1))
    await arrive(right(version=2, state="historical"), at=NOW + timedelta(hours=1))

    (shown,) = await rights_of_unit(UNIT, vault=VAULT)
    history = await versions_of("right", "jc", "r1", vault=VAULT)

    assert (shown.version, shown.holders[0].name, shown.data_as_of) == (3, BO.name, NOW)
    assert [one.version for one in history] == [1, 2, 3]
    assert [json.loads(one.body)["state"] for one in history] == [
        "current",
        "historical",
        "current",
    ]
    assert await RegistryHolder.all().count() == 1


async def test_a_newer_version_replaces_the_holders_and_keeps_the_row() -> None:
    await arrive(right())
    (before,) = await rights_of_unit(UNIT, vault=VAULT)

    await arrive(right(version=2, holding="joint", holders=[OWNER, OTHER]))

    (after,) = await rights_of_unit(UNIT, vault=VAULT)
    assert after.id == before.id
    assert [one.name for one in after.holders] == [ANNA.name, BO.name]


async def test_a_version_that_contradicts_the_one_we_have_changes_nothing() -> None:
    await arrive(unit())
    before = await everything()

    await arrive(unit(room="1203"))

    assert await everything() == before


async def test_fields_we_do_not_know_are_kept_with_the_version() -> None:
    row = right()
    sent = with_unknown(row, heritage="民国建筑", extra={"深": [1, {"x": None}]})
    await arrive(row, sent=[sent])

    (kept,) = await versions_of("right", "jc", "r1", vault=VAULT)

    assert kept.body == sent.body
    assert json.loads(kept.body)["heritage"] == "民国建筑"
    assert kept.row_digest == sent.digest != digest(msgspec.json.encode(row))


async def test_the_digest_is_that_of_the_sorted_row_whatever_its_spelling() -> None:
    row = unit()
    plain = msgspec.to_builtins(row)
    spelled = json.dumps(dict(reversed(plain.items())), indent=1, ensure_ascii=True).encode()
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    await arrive(row, sent=[as_sent(spelled, row)])

    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select row_digest from registry_unit"
    )
    assert bytes(rows[0]["row_digest"]) == hashlib.sha256(canonical.encode()).digest()


def holder(**changes: Any) -> list[HolderRow]:
    return [msgspec.structs.replace(OWNER, **changes)]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (unit(2, parcel_code="360102001001GB00013"), "unit u2 v1: parcel_code"),
        (right(2, holders=holder(id_no="11010519491231002x1")), "right r2 v1: holder 1 id_no"),
        (right(2, holders=holder(id_no="110105194912310021")), "holder 1 id_no"),
        (right(2, holders=[OWNER, *holder(name=" ")]), "holder 2 name"),
        (right(2, holding="shares"), "share"),
        (right(2, holders=holder(share_numerator=1, share_denominator=2)), "share"),
        (
            right(2, holding="shares", holders=holder(share_numerator=3, share_denominator=2)),
            "share",
        ),
        (
            right(2, holding="shares", holders=2 * holder(share_numerator=2, share_denominator=3)),
            "share",
        ),
        (
            right(2, holding="shares", holders=holder(share_numerator=1, share_denominator=0)),
            "share",
        ),
        (right(2, secured_fen=1), "secured_fen"),
        (right(2, transfer_limited=False), "secured_fen"),
        (right(2, maximum=True), "secured_fen"),
        (mortgage(secured_fen=None), "secured_fen"),
        (mortgage(debt_until=date(2026, 2, 28)), "debt_until"),
        (restriction(2, until=date(2026, 2, 28)), "until"),
        (restriction(2, queue_position=1), "queue_position"),
        (restriction(2, state="queued"), "queue_position"),
        (restriction(2, state="lifted"), "lifted_at"),
        (restriction(2, lifted_at=NOW), "lifted_at"),
        (certificate(2, kind="proof"), "number"),
        (certificate(2, kind="legacy"), "number"),
        (certificate(2, number="江房权证字第 3321 号"), "number"),
        (certificate(2, unit_codes=[UNIT, UNIT]), "unit_codes"),
        (certificate(2, holders=holder(id_type="8", id_no="91350100M000100Y44")), "id_no"),
        (unit(2, source="county"), "source"),
        (right(2, source="j"), "source"),
        (restriction(2, source=""), "source"),
        (certificate(2, source="jc-online"), "source"),
    ],
)
async def test_a_row_that_cannot_be_right_is_refused_with_its_whole_packet(
    bad: Struct, word: str
) -> None:
    good = {type(row): row for row in (unit(), right(), restriction(), certificate())}

    with pytest.raises(RowRefused, match=word) as refused:
        await arrive(good[type(bad)], bad)

    assert await everything() == []
    for secret in (ANNA.name, ANNA.id_no, "110105194912310021"):
        assert secret not in str(refused.value)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (unit(region="360103"), "region"),
        (right(region="360103"), "region"),
        (restriction(region="360103"), "region"),
        (certificate(region="360103"), "region"),
        (unit(unit_code="360103" + UNIT[6:], parcel_code="360103" + UNIT[6:19]), "unit_code"),
        (right(unit_code="360103" + UNIT[6:]), "unit_code"),
        (restriction(unit_code="360103" + UNIT[6:]), "unit_code"),
        (certificate(unit_codes=[UNIT, "360103" + UNIT[6:]]), "unit_code"),
    ],
)
async def test_a_county_writes_no_row_of_another_region(bad: Struct, word: str) -> None:
    with pytest.raises(RowRefused, match=f"v1: {word}"):
        await arrive(bad, regions=("360102", "3605"))

    assert await everything() == []
    await arrive(bad, regions=("3601",))
    assert await everything() != []


async def test_ten_thousand_rights_arrive_whole() -> None:
    rows = [right(n, unit_code=f"{UNIT[:20]}{n:08d}") for n in range(10_000)]
    await arrive(*rows)
    before = await everything()

    await arrive(*rows)

    assert len(before) == 30_000
    assert await everything() == before


def test_every_table_of_the_register_is_known_as_a_copy() -> None:
    assert packets  # registers them on import
    copies = {replica.topic: replica.table for replica in replicas.REPLICAS.values()}

    assert {
        "unit": "registry_unit",
        "right": "registry_right",
        "restriction": "registry_restriction",
        "certificate": "registry_certificate",
    }.items() <= copies.items()
    with pytest.raises(ValueError, match="elsewhere"):
        replicas.register(replicas.Replica("unit", "person"))


async def test_every_copy_can_be_proved() -> None:
    """A proof reads the same columns of each. The other side's copies are none of this database."""
    tables = {model._meta.db_table for model in Tortoise.apps["estation"].values()}
    copies = [one for one in replicas.REPLICAS.values() if one.table in tables]
    assert {"unit", "right", "restriction", "certificate"} <= {one.topic for one in copies}
    for replica in copies:
        rows = await Tortoise.get_connection("default").execute_query_dict(
            "select source, source_id, version, region, data_as_of, row_digest"
            f" from {replica.table} {'where ' + replica.where if replica.where else ''}"
        )
        assert rows == []


async def test_a_file_brings_unknown_fields_and_its_regions_to_the_handlers(tmp_path: Path) -> None:
    """Through packing and reading, not only by calling the handler."""
    row = unit(source="jc-center")
    await sending.put_rows(STREAM, "unit", [row], now=T0)
    await Tortoise.get_connection("default").execute_query(
        """update gate_outgoing_row set body = body::jsonb || '{"heritage": "民国建筑"}'"""
    )
    folder = tmp_path / "gate"
    folder.mkdir()
    await sending.pack_waiting(STREAM, folder=folder, key=keys.load_seal_key(PRIVATE), now=T0)

    async def receive(*regions: str) -> ReceiveReport:
        return await receiving.apply_incoming(
            STREAM,
            folder=folder,
            peer_key=keys.load_peer_key(PUBLIC),
            handlers=packets.make_handlers(VAULT),
            scope=Scope(["jc-center"], regions),
            now=T0,
        )

    refused = await receive("360103")
    assert [reason for _, reason in refused.quarantined] == [Reason.bad_row]
    assert await everything() == []
    await receiving.release(STREAM, 1, folder=folder)

    assert (await receive("360102")).applied == [1]
    (kept,) = await versions_of("unit", "jc-center", "u1", vault=VAULT)
    assert json.loads(kept.body) == {**msgspec.to_builtins(row), "heritage": "民国建筑"}
    assert kept.row_digest == digest(kept.body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xff",
        b"",
    ],
)
def test_what_has_no_canonical_form_has_no_digest(body: bytes) -> None:
    with pytest.raises(BadRow):
        digest(body)
