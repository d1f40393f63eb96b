"""What arrives through the gate about cases."""

from collections.abc import Sequence
from typing import cast

import structlog
from msgspec import Struct
from tortoise import Tortoise

from estation.cases.actions import IncomingCase, merge_cases
from estation.cases.rules import fault_of, stage_order
from estation.identity.api import BadPerson, upsert_persons
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival, Handler
from estation.outside.gate.rows import CaseRow, StageRow
from estation.shared.crypto import Vault

log = structlog.get_logger()


def make_handler(vault: Vault) -> Handler:
    """The handler of topic `case`. Raises RowRefused for a row that can never be right."""

    async def apply_cases(rows: Sequence[Struct], arrival: Arrival) -> None:
        cases = [cast("CaseRow", row) for row in rows]
        for case in cases:
            if not arrival.is_from(case.source):
                raise RowRefused(f"{_name(case)}: source")
            fault = fault_of(case)
            if fault:
                raise RowRefused(f"{_name(case)}: {fault}")
        parties = [(case, party) for case in cases for party in case.parties]
        try:
            persons = await upsert_persons(
                [party for _, party in parties], vault=vault, now=arrival.watermark
            )
        except BadPerson as bad:
            raise RowRefused(f"{_name(parties[bad.position][0])}: party {bad.reason}") from None
        incoming = [
            IncomingCase(
                source=case.source,
                source_id=case.source_id,
                version=case.version,
                region=case.region,
                case_no=case.case_no,
                matter=case.matter,
                hall=case.hall,
                unit_code=case.unit_code,
                address=case.address,
                state=case.state,
                stages=[_stage(one) for one in sorted(case.stages, key=_order)],
                opened_at=case.opened_at,
                parties=[(persons[p.id_type, p.id_no], p.role) for p in case.parties],
            )
            for case in cases
        ]
        await merge_cases(
            Tortoise.get_connection("default"), incoming, data_as_of=arrival.watermark
        )
        log.info("cases_applied", stream=arrival.stream, seq=arrival.seq, rows=len(cases))

    return apply_cases


def _name(case: CaseRow) -> str:
    """Which row it is, for the staff who have to mend it; no personal data."""
    return f"case {case.source_id} v{case.version}"


def _order(stage: StageRow) -> int:
    return stage_order(stage.stage)


def _stage(stage: StageRow) -> dict[str, object]:
    return {
        "stage": stage.stage,
        "state": stage.state,
        "at": stage.at.isoformat() if stage.at else None,
        "note": stage.note,
    }
