"""Rows of the register: one flat, its owner, mortgage, seizure and certificate."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import msgspec
from msgspec import Struct

from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import (
    AsSent,
    CertificateRow,
    HolderRow,
    RestrictionRow,
    RightRow,
    UnitRow,
    as_sent,
)
from estation.registry import packets
from estation.shared.transactions import in_transaction
from tests.identity.people import ANNA, BO, NOW, VAULT

UNIT = "360102001001GB00012F00031202"
NUMBER = "赣（2026）江城市不动产权第0000123号"
OWNER = HolderRow(name=ANNA.name, id_type="1", id_no=ANNA.id_no, kind="1")
OTHER = HolderRow(name=BO.name, id_type="1", id_no=BO.id_no, kind="1")
BANK = HolderRow(name="江城银行股份有限公司", id_type="8", id_no="91350100M000100Y43", kind="2")


def unit(number: int = 1, version: int = 1, **changes: Any) -> UnitRow:
    row = UnitRow(
        source="jc", source_id=f"u{number}", version=version, region="360102", unit_code=UNIT,
        parcel_code=UNIT[:19], natural_building=UNIT[:24], logical_building="3", floor="12",
        actual_floor=12, room="1202", address="江城市沿江大道18号3幢1202室", usage="11",
        structure="3", building_area=895_000, inner_area=720_000, shared_area=175_000,
        house_code="", project="沿江一号", state="current",
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


def right(number: int = 1, version: int = 1, **changes: Any) -> RightRow:
    row = RightRow(
        source="jc", source_id=f"r{number}", version=version, region="360102", kind="ownership",
        national_code="4", unit_code=UNIT, holding="sole", holders=[OWNER],
        certificate_no=NUMBER, registered_at=NOW, until=date(2080, 1, 1), state="current",
        case_source_id="202602010001",
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


def mortgage(number: int = 2, version: int = 1, **changes: Any) -> RightRow:
    wanted = {
        "kind": "mortgage", "national_code": "", "holders": [BANK], "secured_fen": 60_000_000,
        "debt_from": date(2026, 3, 1), "debt_until": date(2046, 3, 1), "rank": 1,
        "transfer_limited": False, "certificate_no": "赣（2026）江城市不动产证明第0000045号",
    }  # fmt: skip
    return right(number, version, **{**wanted, **changes})


def restriction(number: int = 1, version: int = 1, **changes: Any) -> RestrictionRow:
    row = RestrictionRow(
        source="jc", source_id=f"x{number}", version=version, region="360102", unit_code=UNIT,
        kind="seizure", organ="江城市江东区人民法院", document_no="（2026）赣0102执123号",
        since=date(2026, 3, 1), until=date(2029, 2, 28), scope="全部", queue_position=0,
        state="in_force", registered_at=NOW,
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


def certificate(place: int = 1, version: int = 1, **changes: Any) -> CertificateRow:
    row = CertificateRow(
        source="jc", source_id=f"c{place}", version=version, region="360102", number=NUMBER,
        kind="title", print_no="D36000000123", holders=[OWNER], unit_codes=[UNIT], issued_at=NOW,
        state="valid",
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


TOPICS: dict[type[Struct], str] = {
    UnitRow: "unit",
    RightRow: "right",
    RestrictionRow: "restriction",
    CertificateRow: "certificate",
}


async def arrive(
    *rows: Struct, at: datetime = NOW, regions: Sequence[str] = (), sent: Sequence[AsSent] = ()
) -> None:
    """One packet with rows of one topic."""
    handler = packets.make_handlers(VAULT)[TOPICS[type(rows[0])]]
    async with in_transaction():
        await handler(rows, Arrival("jc-online", 1, at, sent, regions))


def with_unknown(row: Struct, **fields: Any) -> AsSent:
    """As a newer sender would write it."""
    return as_sent(msgspec.json.encode({**msgspec.to_builtins(row), **fields}), row)
