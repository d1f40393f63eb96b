"""What the desk's pages show; nothing here writes."""

import dataclasses
import json
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from tortoise import Tortoise

from estation.inner.errors import BillNotFound, CaseNotFound
from estation.inner.models import FeeBillItem
from estation.inner.rules import BillState, CaseState, Item, RefundState, Stage, StageState
from estation.inner.views import (
    PAGE_SIZE,
    BillLine,
    BillView,
    CaseLine,
    CaseView,
    EvidenceView,
    Page,
    PartyView,
    ReceiptView,
    RefundNewsView,
    RefundOrderView,
    StageView,
    StrayEvidenceView,
    VersionView,
)
from estation.outside.gate import attention, peers, status
from estation.outside.gate.rows import PaymentEvidenceRow
from estation.outside.gate.status import StreamStatus

MAX_PAGE = 400
_EVIDENCE_WAITS = "(e.bill_id is null or e.attention <> '')"


async def case_list(*, search: str, state: CaseState | None, page: int) -> Page:
    """Cases, newest first. `search` is the beginning of a 受理号 or of a party's name."""
    where = """($1 = '' or c.case_no like $2 or exists (
                 select from case_party p where p.case_id = c.id and p.name like $2))
               and ($3 = '' or c.state = $3)"""
    values = [search, _starting_with(search), state.value if state else ""]
    number = min(max(page, 1), MAX_PAGE)
    total = await _query(f"select count(*) as n from case_file c where {where}", *values)  # noqa: S608 - constant text
    rows = await _query(
        f"""select c.case_no, c.matter, u.address, h.name as hall, c.state, c.opened_at,
              s.stage, s.state as stage_state, p.parties, coalesce(b.bills, 0) as bills,
              coalesce(b.unpaid_fen, 0)::bigint as unpaid_fen
            from case_file c join hall h on h.code = c.hall_id
              join unit u on u.unit_code = c.unit_id
              left join lateral (
                select stage, state from case_stage where case_id = c.id
                  and state not in ('done', 'not_required') order by seq limit 1) s on true
              left join lateral (
                select string_agg(name, '、' order by seq) as parties
                from case_party where case_id = c.id) p on true
              left join lateral (
                select count(*) as bills,
                  sum(total_fen) filter (where state = 'issued') as unpaid_fen
                from fee_bill where case_id = c.id) b on true
            where {where} order by c.opened_at desc, c.id desc limit $4 offset $5""",  # noqa: S608 - constant text
        *values,
        PAGE_SIZE,
        (number - 1) * PAGE_SIZE,
    )
    return Page([_case_line(row) for row in rows], number, total[0]["n"])


async def case_view(case_no: str) -> CaseView:
    """Raises CaseNotFound."""
    rows = await _query(
        """select c.*, h.name as hall, d.name as district, u.address, u.usage,
             u.area_m2::text as area_m2
           from case_file c join hall h on h.code = c.hall_id
             join unit u on u.unit_code = c.unit_id join district d on d.code = u.district_id
           where case_no = $1""",
        case_no,
    )
    if not rows:
        raise CaseNotFound()
    case = rows[0]
    parties = await _query("select * from case_party where case_id = $1 order by seq", case["id"])
    stages = await _query("select * from case_stage where case_id = $1 order by seq", case["id"])
    return CaseView(
        case_no=case_no,
        version=case["version"],
        matter=case["matter"],
        state=CaseState(case["state"]),
        hall=case["hall"],
        unit_code=case["unit_id"],
        address=case["address"],
        usage=case["usage"],
        area_m2=case["area_m2"],
        district=case["district"],
        opened_at=case["opened_at"],
        parties=[_party(row) for row in parties],
        stages=[
            StageView(Stage(row["stage"]), StageState(row["state"]), row["at"], row["note"])
            for row in stages
        ],
        bills=await _bill_lines("b.case_id = $1", case["id"]),
    )


async def bill_view(bill_no: str) -> BillView:
    """Raises BillNotFound."""
    lines = await _bill_lines("b.bill_no = $1", bill_no)
    if not lines:
        raise BillNotFound()
    facts = (
        await _query(
            """select b.id as bill_id, b.paid_version, c.state as case_state, p.*
               from fee_bill b join case_file c on c.id = b.case_id
                 join case_party p on p.id = b.payer_id where b.bill_no = $1""",
            bill_no,
        )
    )[0]
    receipts = await _query(
        """select * from fee_receipt where bill_id = $1
           order by received_at desc, paid_at desc, id desc limit 50""",
        facts["bill_id"],
    )
    return BillView(
        line=lines[0],
        payer=_party(facts),
        case_open=facts["case_state"] == CaseState.OPEN,
        paid_version=facts["paid_version"],
        versions=await _versions(facts["bill_id"]),
        receipts=[_receipt(row) for row in receipts],
        refund_orders=await _refund_orders("r.bill_id = $1", facts["bill_id"]),
        refund_news=await _refund_news(facts["bill_id"]),
        evidence=await _evidence(facts["bill_id"]),
    )


async def refunds_to_decide(*, limit: int = 100) -> list[RefundOrderView]:
    """Refund orders that wait for a second person, the oldest first."""
    return await _refund_orders("r.state = $1", RefundState.ASKED.value, limit=limit)


async def _refund_orders(where: str, value: Any, *, limit: int = 50) -> list[RefundOrderView]:
    rows = await _query(
        f"""select r.refund_no, b.bill_no, r.order_no, r.amount_fen, r.shares::text as shares,
              r.reason, r.state, r.asked_by, r.asked_at, r.decided_by, r.decided_at,
              r.decision_note, r.why_not, r.changed_at
            from fee_refund_order r join fee_bill b on b.id = r.bill_id
            where {where} order by r.asked_at, r.refund_no limit $2""",  # noqa: S608 - constant text
        value,
        limit,
    )
    return [
        RefundOrderView(
            **{**row, "state": RefundState(row["state"]), "shares": json.loads(row["shares"])}
        )
        for row in rows
    ]


async def _refund_news(bill_id: UUID) -> list[RefundNewsView]:
    rows = await _query(
        """select refund_no, order_source_id, state, amount_fen, shares::text as shares, channel,
             channel_refund_no, at, reason, attention
           from fee_refund_news where bill_id = $1 and state <> 'refused'
           order by at, refund_no limit 100""",
        bill_id,
    )
    return [RefundNewsView(**{**row, "shares": json.loads(row["shares"])}) for row in rows]


async def _evidence(bill_id: UUID) -> list[EvidenceView]:
    rows = await _query(
        """select said::text as said, attention from fee_payment_evidence where bill_id = $1
           order by order_no, out_trade_no limit 100""",
        bill_id,
    )
    return [
        _proof(msgspec.json.decode(row["said"], type=PaymentEvidenceRow), row["attention"])
        for row in rows
    ]


def _proof(said: PaymentEvidenceRow, attention: str) -> EvidenceView:
    names = [one.name for one in dataclasses.fields(EvidenceView) if one.name != "attention"]
    return EvidenceView(**{name: getattr(said, name) for name in names}, attention=attention)


async def receipt_list(*, only_attention: bool, page: int) -> Page:
    """Receipts, newest first; with `only_attention` those that wait for a person."""
    where = "not $1 or (attention <> '' and handled_at is null)"
    number = min(max(page, 1), MAX_PAGE)
    total = await _query(
        f"select count(*) as n from fee_receipt where {where}",  # noqa: S608 - constant text
        only_attention,
    )
    rows = await _query(
        f"""select * from fee_receipt where {where}
            order by received_at desc, paid_at desc, id desc limit $2 offset $3""",  # noqa: S608 - constant text
        only_attention,
        PAGE_SIZE,
        (number - 1) * PAGE_SIZE,
    )
    return Page([_receipt(row) for row in rows], number, total[0]["n"])


async def evidence_list(*, page: int) -> Page:
    """Evidence somebody must look at, newest first: of bills that are none of ours, and what does
    not fit. The other stands with its bill."""
    number = min(max(page, 1), MAX_PAGE)
    rows = await _query(
        f"""select e.said::text as said, e.attention, b.bill_no from fee_payment_evidence e
              left join fee_bill b on b.id = e.bill_id
            where {_EVIDENCE_WAITS} order by e.received_at desc, e.id desc limit $1 offset $2""",  # noqa: S608 - constant text
        PAGE_SIZE,
        (number - 1) * PAGE_SIZE,
    )
    found = [_stray_evidence(row) for row in rows]
    return Page(found, number, await evidence_waiting())


async def evidence_waiting() -> int:
    """How much of it there is."""
    found = await _query(
        f"select count(*) as n from fee_payment_evidence e where {_EVIDENCE_WAITS}"  # noqa: S608 - constant text
    )
    return int(found[0]["n"])


def _stray_evidence(row: Any) -> StrayEvidenceView:
    said = msgspec.json.decode(row["said"], type=PaymentEvidenceRow)
    return StrayEvidenceView(
        source=said.source,
        source_id=said.source_id,
        bill_no=row["bill_no"] or "",
        proof=_proof(said, row["attention"]),
    )


async def items_of(bill_id: UUID, version: int) -> list[Item]:
    """The items of one version, by number."""
    rows = await FeeBillItem.filter(bill_id=bill_id, version=version).order_by("seq")
    return [
        Item(
            seq=row.seq,
            code=row.code,
            name=row.name,
            payee_code=row.payee_code,
            base_fen=row.base_fen,
            rate=row.rate,
            relief_fen=row.relief_fen,
            amount_fen=row.amount_fen,
            formula=row.formula,
            legal_basis=row.legal_basis,
            note=row.note,
        )
        for row in rows
    ]


async def halls() -> list[tuple[str, str]]:
    """(code, name) of every hall."""
    rows = await _query("select code, name from hall order by code")
    return [(row["code"], row["name"]) for row in rows]


async def gate_line(now: datetime) -> tuple[list[StreamStatus], int, list[str]]:
    """The streams of this side, how many receipts wait for a person, and for what of the gate one
    is needed."""
    waiting = await _query(
        "select count(*) as n from fee_receipt where attention <> '' and handled_at is null"
    )
    streams = await status.stream_status()
    needed = attention.words_of(streams, await peers.peers(), now=now)
    return streams, waiting[0]["n"], needed


async def _bill_lines(where: str, value: Any) -> list[BillLine]:
    rows = await _query(
        f"""select b.bill_no, c.case_no, p.name as payer, p.role as payer_role, b.title, b.state,
              b.version, b.total_fen, b.issued_at, b.due_on, b.paid_at
            from fee_bill b join case_file c on c.id = b.case_id
              join case_party p on p.id = b.payer_id
            where {where} order by b.issued_at, b.bill_no""",  # noqa: S608 - constant text
        value,
    )
    return [BillLine(**{**row, "state": BillState(row["state"])}) for row in rows]


async def _versions(bill_id: UUID) -> list[VersionView]:
    rows = await _query(
        "select * from fee_bill_version where bill_id = $1 order by version desc limit 50",
        bill_id,
    )
    return [
        VersionView(
            version=row["version"],
            state=BillState(row["state"]),
            total_fen=row["total_fen"],
            due_on=row["due_on"],
            reason=row["reason"],
            made_by=row["made_by"],
            made_at=row["made_at"],
            items=await items_of(bill_id, row["version"]),
        )
        for row in rows
    ]


def _case_line(row: dict[str, Any]) -> CaseLine:
    return CaseLine(
        **{
            **row,
            "state": CaseState(row["state"]),
            "stage": Stage(row["stage"]) if row["stage"] else None,
            "stage_state": StageState(row["stage_state"]) if row["stage_state"] else None,
            "parties": row["parties"] or "",
        }
    )


def _party(row: dict[str, Any]) -> PartyView:
    return PartyView(
        seq=row["seq"],
        role=row["role"],
        name=row["name"],
        id_type=row["id_type"],
        id_no=_masked(row["id_no"]),
        phone=_masked(row["phone"]),
    )


def _masked(text: str) -> str:
    """First three and last four, as for parties of a case (facts/domain §8.1, level 2)."""
    return f"{text[:3]}{'*' * (len(text) - 7)}{text[-4:]}" if len(text) > 7 else "*" * len(text)


def _receipt(row: dict[str, Any]) -> ReceiptView:
    splits = row["splits"]
    return ReceiptView(
        id=row["id"],
        bill_no=row["bill_no"],
        known_bill=row["bill_id"] is not None,
        bill_version=row["bill_version"],
        order_no=row["order_no"],
        channel=row["channel"],
        out_trade_no=row["out_trade_no"],
        channel_trade_no=row["channel_trade_no"],
        transfer_id=row["transfer_id"],
        amount_fen=row["amount_fen"],
        splits=json.loads(splits) if isinstance(splits, str) else splits,
        paid_at=row["paid_at"],
        packet_seq=row["packet_seq"],
        received_at=row["received_at"],
        attention=row["attention"],
        handled_at=row["handled_at"],
        handled_by=row["handled_by"],
        handled_note=row["handled_note"],
    )


def _starting_with(text: str) -> str:
    """A LIKE pattern; the text's own wildcards are letters."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"{escaped}%"


async def _query(sql: str, *values: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return rows
