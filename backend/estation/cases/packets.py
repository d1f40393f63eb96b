"""What arrives through the gate about cases."""

from collections.abc import Sequence
from typing import cast

import structlog
from msgspec import Struct
from tortoise import Tortoise

from estation.cases.actions import IncomingCase, IncomingEvent, merge_cases, merge_events
from estation.cases.rules import fault_of, fault_of_event
from estation.identity.api import BadPerson, Speaker, upsert_persons
from estation.outside.gate import replicas
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival, Handler
from estation.outside.gate.replicas import Replica
from estation.outside.gate.rows import CaseEventRow, CaseRow
from estation.shared.crypto import Vault

log = structlog.get_logger()

replicas.register(
    Replica("case", "case_record", is_read_in_use=True),
    Replica("case_event", "case_event", is_read_in_use=True),
)


def make_handler(vault: Vault) -> Handler:
    """The handler of topic `case`. Raises RowRefused for a row that can never be right."""

    async def apply_cases(rows: Sequence[Struct], arrival: Arrival) -> None:
        cases = [cast("CaseRow", row) for row in rows]
        for position, case in enumerate(cases):
            foreign = arrival.fault_of(case) or _foreign_unit(case, arrival)
            fault = foreign or fault_of(case)
            if fault:
                raise RowRefused(f"{_name(case)}: {fault}", position=None if foreign else position)
        parties = [(at, party) for at, case in enumerate(cases) for party in case.parties]
        try:
            persons = await upsert_persons(
                [party for _, party in parties],
                vault=vault,
                by=Speaker(arrival.peer, arrival.reach),
                now=arrival.watermark,
            )
        except BadPerson as bad:
            at = parties[bad.position][0]
            raise RowRefused(f"{_name(cases[at])}: party {bad.reason}", position=at) from None
        incoming = [
            IncomingCase(case, sent, [(persons[p.id_type, p.id_no], p.role) for p in case.parties])
            for case, sent in zip(cases, arrival.as_sent(rows), strict=True)
        ]
        await merge_cases(
            Tortoise.get_connection("default"),
            incoming,
            vault=vault,
            data_as_of=arrival.watermark,
            repairs=arrival.repairs,
        )
        log.info("cases_applied", stream=arrival.stream, seq=arrival.seq, rows=len(cases))

    return apply_cases


def make_event_handler(vault: Vault) -> Handler:
    """The handler of topic `case_event`. Raises RowRefused for a row that can never be right."""

    async def apply_events(rows: Sequence[Struct], arrival: Arrival) -> None:
        events = [cast("CaseEventRow", row) for row in rows]
        for position, event in enumerate(events):
            foreign = arrival.fault_of(event)
            fault = foreign or fault_of_event(event)
            if fault:
                raise RowRefused(
                    f"case_event {event.source_id}: {fault}",
                    position=None if foreign else position,
                )
        new = await merge_events(
            Tortoise.get_connection("default"),
            list(map(IncomingEvent, events, arrival.as_sent(rows))),
            vault=vault,
            data_as_of=arrival.watermark,
            repairs=arrival.repairs,
        )
        log.info("case_events_applied", stream=arrival.stream, seq=arrival.seq, new=new)

    return apply_events


def _foreign_unit(case: CaseRow, arrival: Arrival) -> str:
    """Like the register's rows; a case may still be without a unit."""
    is_own = not case.unit_code or arrival.covers(case.unit_code[:6])
    return "" if is_own else "unit_code"


def _name(case: CaseRow) -> str:
    """Which row it is, for the staff who have to mend it; no personal data."""
    return f"case {case.source_id} v{case.version}"
