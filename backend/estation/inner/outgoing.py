"""What the other side is told: the present state of cases, bills and the register as gate rows.

Every action calls the `send_…` of what it changed inside its transaction, after its changes, so
what crosses is exactly what was committed.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from tortoise import Tortoise

from estation.inner.models import RefundOrder
from estation.outside.gate import sending
from estation.outside.gate.rows import (
    CaseEventRow,
    CaseRow,
    CertificateRow,
    FeeBillRow,
    FeeItemRow,
    HolderRow,
    PartyRow,
    RefundOrderRow,
    RefundShareRow,
    RestrictionRow,
    RightRow,
    StageRow,
    UnitRow,
)
from estation.settings import InnerSettings


async def send_cases(case_ids: Sequence[UUID], *, settings: InnerSettings, now: datetime) -> None:
    """Put the newest state of these cases into the outgoing stream, in the given order."""
    rows = await case_rows(case_ids, source=settings.source)
    await sending.put_rows(settings.gate.stream_out, "case", rows, now=now)


async def send_bills(bill_ids: Sequence[UUID], *, settings: InnerSettings, now: datetime) -> None:
    """Put the newest version of these bills into the outgoing stream, in the given order."""
    rows = await bill_rows(bill_ids, source=settings.source)
    await sending.put_rows(settings.gate.stream_out, "fee_bill", rows, now=now)


async def send_refund_order(
    order: RefundOrder, *, bill_no: str, region: str, settings: InnerSettings, now: datetime
) -> None:
    """Put an approved refund order into the outgoing stream."""
    row = RefundOrderRow(
        source=settings.source,
        source_id=order.refund_no,
        version=1,
        region=region,
        bill_source_id=bill_no,
        order_no=order.order_no,
        amount_fen=order.amount_fen,
        believed_refundable_fen=order.believed_refundable_fen,
        shares=[RefundShareRow(**share) for share in order.shares],
        reason=order.reason,
        asked_by=order.asked_by,
        approved_by=order.decided_by,
        approved_at=now,
    )
    await sending.put_rows(settings.gate.stream_out, "refund_order", [row], now=now)


async def send_events(event_ids: Sequence[UUID], *, settings: InnerSettings, now: datetime) -> None:
    """Put these events of cases into the outgoing stream, in the given order."""
    events = await _query(
        """select e.*, c.case_no, u.district_id
           from unnest($1::uuid[]) with ordinality as wanted (id, place)
             join case_event e using (id) join case_file c on c.id = e.case_id
             join unit u on u.unit_code = c.unit_id
           order by place""",
        list(event_ids),
    )
    rows = [
        CaseEventRow(
            source=settings.source,
            source_id=f"{event['case_no']}-{event['seq']:04d}",
            region=event["district_id"],
            case_source_id=event["case_no"],
            seq=event["seq"],
            what=event["what"],
            stage=event["stage"],
            state=event["state"],
            at=event["at"],
            note=event["note"],
        )
        for event in events
    ]
    await sending.put_rows(settings.gate.stream_out, "case_event", rows, now=now)


async def send_units(unit_codes: Sequence[str], *, settings: InnerSettings, now: datetime) -> None:
    """Put these units into the outgoing stream; a unit does not change here, so it is version 1."""
    units = await _query(
        """select u.*, (u.area_m2 * 10000)::bigint as area
           from unnest($1::text[]) with ordinality as wanted (unit_code, place)
             join unit u using (unit_code) order by place""",
        list(unit_codes),
    )
    rows = [
        UnitRow(
            source=settings.source,
            source_id=unit["unit_code"],
            version=1,
            region=unit["district_id"],
            unit_code=unit["unit_code"],
            parcel_code=unit["unit_code"][:19],
            natural_building=unit["unit_code"][:24],
            logical_building=unit["unit_code"][20:24],
            floor=unit["floor"],
            actual_floor=None,
            room=unit["room"],
            address=unit["address"],
            usage=USAGES.get(unit["usage"], ""),
            structure="3",
            building_area=unit["area"],
            inner_area=None,
            shared_area=None,
            house_code="",
            project=unit["project"],
            state="current",
        )
        for unit in units
    ]
    await sending.put_rows(settings.gate.stream_out, "unit", rows, now=now)


USAGES = {"住宅": "11", "商业服务": "31"}
"""房屋用途 (code table FWYT)."""


async def send_rights(right_ids: Sequence[UUID], *, settings: InnerSettings, now: datetime) -> None:
    """Put the newest state of these rights, and of their certificates, into the stream."""
    wanted = list(right_ids)
    rights = await _query(
        """select r.*, u.district_id, c.number, c.version as certificate_version,
             c.kind as certificate_kind, c.print_no, c.issued_at, c.state as certificate_state
           from unnest($1::uuid[]) with ordinality as wanted (id, place)
             join right_entry r using (id) join unit u on u.unit_code = r.unit_id
             join certificate c on c.right_id = r.id
           order by place""",
        wanted,
    )
    holders = await _grouped(
        "select * from right_holder where right_id = any($1::uuid[]) order by right_id, seq",
        "right_id",
        wanted,
    )
    held = {right_id: [_holder(row) for row in rows] for right_id, rows in holders.items()}
    stream = settings.gate.stream_out
    await sending.put_rows(
        stream, "right", [_right(row, held[row["id"]], settings.source) for row in rights], now=now
    )
    certificates = [_certificate(row, held[row["id"]], settings.source) for row in rights]
    await sending.put_rows(stream, "certificate", certificates, now=now)


async def send_restrictions(
    restriction_ids: Sequence[UUID], *, settings: InnerSettings, now: datetime
) -> None:
    """Put the newest state of these restrictions into the outgoing stream."""
    found = await _query(
        """select r.*, u.district_id
           from unnest($1::uuid[]) with ordinality as wanted (id, place)
             join restriction_entry r using (id) join unit u on u.unit_code = r.unit_id
           order by place""",
        list(restriction_ids),
    )
    rows = [
        RestrictionRow(
            source=settings.source,
            source_id=row["restriction_no"],
            region=row["district_id"],
            unit_code=row["unit_id"],
            **{
                name: row[name]
                for name in (
                    "version", "kind", "organ", "document_no", "since", "until", "scope",
                    "queue_position", "state", "registered_at", "lifted_at", "lifted_by",
                    "lifted_document_no",
                )
            },
        )
        for row in found
    ]  # fmt: skip
    await sending.put_rows(settings.gate.stream_out, "restriction", rows, now=now)


async def case_rows(case_ids: Sequence[UUID], *, source: str) -> list[CaseRow]:
    """The cases as the other side wants them; the 受理号 is the name that stays."""
    wanted = list(case_ids)
    cases = await _query(
        """select c.*, h.name as hall_name, u.address, u.district_id
           from unnest($1::uuid[]) with ordinality as wanted (id, place)
             join case_file c using (id) join hall h on h.code = c.hall_id
             join unit u on u.unit_code = c.unit_id
           order by place""",
        wanted,
    )
    parties = await _grouped(
        "select * from case_party where case_id = any($1::uuid[]) order by case_id, seq",
        "case_id",
        wanted,
    )
    stages = await _grouped(
        "select * from case_stage where case_id = any($1::uuid[]) order by case_id, seq",
        "case_id",
        wanted,
    )
    return [
        CaseRow(
            source=source,
            source_id=case["case_no"],
            version=case["version"],
            region=case["district_id"],
            case_no=case["case_no"],
            matter=case["matter"],
            hall=case["hall_name"],
            unit_code=case["unit_id"],
            address=case["address"],
            opened_at=case["opened_at"],
            state=case["state"],
            parties=[_party(party) for party in parties.get(case["id"], [])],
            stages=[_stage(stage) for stage in stages.get(case["id"], [])],
        )
        for case in cases
    ]


async def bill_rows(bill_ids: Sequence[UUID], *, source: str) -> list[FeeBillRow]:
    """The bills' newest versions; a withdrawn one keeps the items it last had."""
    wanted = list(bill_ids)
    bills = await _query(
        """select b.*, c.case_no, u.district_id, p.role, p.name, p.id_type, p.id_no, p.phone
           from unnest($1::uuid[]) with ordinality as wanted (id, place)
             join fee_bill b using (id) join case_file c on c.id = b.case_id
             join unit u on u.unit_code = c.unit_id join case_party p on p.id = b.payer_id
           order by place""",
        wanted,
    )
    items = await _grouped(
        """select i.* from fee_bill_item i
             join fee_bill b on b.id = i.bill_id and b.version = i.version
           where i.bill_id = any($1::uuid[]) order by i.bill_id, i.seq""",
        "bill_id",
        wanted,
    )
    return [
        FeeBillRow(
            source=source,
            source_id=bill["bill_no"],
            version=bill["version"],
            region=bill["district_id"],
            bill_no=bill["bill_no"],
            case_source_id=bill["case_no"],
            title=bill["title"],
            payer=_party(bill),
            state="withdrawn" if bill["state"] == "withdrawn" else "issued",
            issued_at=bill["issued_at"],
            due_on=bill["due_on"],
            total_fen=bill["total_fen"],
            items=[_item(item) for item in items.get(bill["id"], [])],
        )
        for bill in bills
    ]


def _right(row: dict[str, Any], holders: list[HolderRow], source: str) -> RightRow:
    return RightRow(
        source=source,
        source_id=row["right_no"],
        region=row["district_id"],
        unit_code=row["unit_id"],
        holders=holders,
        certificate_no=row["number"],
        case_source_id=row["case_no"],
        **{
            name: row[name]
            for name in (
                "version", "kind", "national_code", "holding", "registered_at", "until", "state",
                "secured_fen", "debt_from", "debt_until", "rank", "transfer_limited",
            )
        },
    )  # fmt: skip


def _certificate(row: dict[str, Any], holders: list[HolderRow], source: str) -> CertificateRow:
    return CertificateRow(
        source=source,
        source_id=row["right_no"],
        version=row["certificate_version"],
        region=row["district_id"],
        number=row["number"],
        kind=row["certificate_kind"],
        print_no=row["print_no"],
        holders=holders,
        unit_codes=[row["unit_id"]],
        issued_at=row["issued_at"],
        state=row["certificate_state"],
    )


def _holder(row: dict[str, Any]) -> HolderRow:
    return HolderRow(
        name=row["name"],
        id_type=row["id_type"],
        id_no=row["id_no"],
        kind=row["kind"],
        share_numerator=row["share_numerator"],
        share_denominator=row["share_denominator"],
    )


def _party(row: dict[str, Any]) -> PartyRow:
    return PartyRow(
        role=row["role"],
        name=row["name"],
        id_type=row["id_type"],
        id_no=row["id_no"],
        phone=row["phone"],
    )


def _stage(row: dict[str, Any]) -> StageRow:
    return StageRow(stage=row["stage"], state=row["state"], at=row["at"], note=row["note"])


def _item(row: dict[str, Any]) -> FeeItemRow:
    return FeeItemRow(
        seq=row["seq"],
        code=row["code"],
        name=row["name"],
        payee_code=row["payee_code"],
        base_fen=row["base_fen"],
        rate=row["rate"],
        relief_fen=row["relief_fen"],
        amount_fen=row["amount_fen"],
        formula=row["formula"],
        legal_basis=row["legal_basis"],
        note=row["note"],
    )


async def _query(sql: str, *values: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return rows


async def _grouped(sql: str, key: str, wanted: list[UUID]) -> dict[UUID, list[dict[str, Any]]]:
    groups: dict[UUID, list[dict[str, Any]]] = {}
    for row in await _query(sql, wanted):
        groups.setdefault(row[key], []).append(row)
    return groups
