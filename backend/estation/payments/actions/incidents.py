"""Opening, taking and resolving incidents; each thing done leaves a trace that stays."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.ledger.api import arrival_by_key, open_claim_fen
from estation.payments import queries, refund_rules, rules
from estation.payments.actions.refund_locking import LockedRefund, lock_refunds
from estation.payments.actions.refunds.ask import lock_standings
from estation.payments.actions.storing import (
    FINANCE,
    IncidentNote,
    note_deed,
    note_deed_of,
    put_incidents,
)
from estation.payments.combining import whole_number
from estation.payments.errors import (
    IncidentAlreadyResolved,
    MoneyInSuspense,
    MoneyNotInLedger,
    NewsNotSettled,
    OverpaidBack,
    RefundNotPaidOut,
    RefundStillAbnormal,
    SecondPersonNeeded,
    StreamStillStopped,
)
from estation.payments.invariants import FORGOTTEN
from estation.payments.models import Incident, IncidentAction
from estation.payments.persons import Person, is_same, person
from estation.payments.queries import IncidentView
from estation.payments.refund_rules import PAID_BY_HAND, REDIRECT_REFUSED, Deed
from estation.payments.rules import IncidentKind, IncidentState, RefundState
from estation.shared.errors import Refused
from estation.shared.jsonb import clean_text
from estation.shared.transactions import in_transaction
from estation.shared.typed import typed_text

SYSTEM = "system"
"""Who did what no person did."""
GATE_STOPPED, GATE_NO_ROOM = "gate_stopped", "gate_no_room"
GATE_ROW_REFUSED = "gate_row_refused"
WENT_ON = {
    GATE_STOPPED: "数据流已经继续",
    GATE_NO_ROOM: "又有了空间",
    GATE_ROW_REFUSED: "这一行不再隔离",
}
ROW_IS_OVER = {
    "taken_in": "这一行已有可以接收的版本",
    "not_sent": "来源现在没有这一行，或没有这一版本",
    "given_up": "已由工作人员放弃这一行",
}
"""How a row that was set aside came to its end (`gate_refused_row.healed_by`)."""

RESOLVE_ASKED = "resolve_asked"
"""The first of two persons' words on an incident of rules.ENDED_BY_TWO."""


async def open_incident(
    *,
    kind: str,
    channel: str,
    account_id: str,
    out_trade_no: str,
    distinction: str,
    evidence: dict[str, Any],
    now: datetime,
    amount_fen: int = 0,
    channel_trade_no: str | None = None,
    order_id: UUID | None = None,
    owner: str = FINANCE,
) -> None:
    """Open it unless the same (kind, account, distinction) was ever opened. Joins the caller's
    transaction."""
    note = IncidentNote(
        kind=kind,
        channel=channel,
        account_id=account_id,
        out_trade_no=out_trade_no,
        channel_trade_no=channel_trade_no,
        amount_fen=amount_fen,
        order_id=order_id,
        distinction=distinction,
        evidence=evidence,
        owner=owner,
    )
    await put_incidents(Tortoise.get_connection("default"), [note], now=now)


async def resolve_incident(
    *, incident_id: UUID, by: str, by_id: UUID | None = None, resolution: str, now: datetime
) -> IncidentView:
    """Close it with the words of the person who decided. `by` names the staff member. A kind of
    rules.ENDED_BY_TWO stays open after the first person's words, and ends with another one's.

    Refuses IncidentNotFound, IncidentAlreadyResolved, InvalidInput (no words, or no text),
    SecondPersonNeeded (the second words are the same person's), and what words do not end:
    MoneyInSuspense (money of it is neither given back, nor on its way, nor settled outside),
    OverpaidBack (money of it was given away twice), NewsNotSettled, RefundStillAbnormal,
    RefundNotPaidOut, MoneyNotInLedger, StreamStillStopped.
    """
    words = typed_text("resolution", resolution, most=2000, lines=True)
    found = await queries.incident(incident_id)
    async with in_transaction() as db:
        # First the locks of what it is about, whatever its state was: it may be open by now.
        refusal = await _still_so(db, found)
        row = await Incident.select_for_update().get(id=incident_id)
        if row.state is not IncidentState.OPEN:
            raise IncidentAlreadyResolved(incident_id=str(incident_id))
        if refusal is not None:
            raise refusal
        who = person(by, by_id)
        if row.kind in rules.ENDED_BY_TWO and await _is_first(db, row, who):
            await note_deed_of(db, row.dedupe_key, RESOLVE_ASKED, who, words, now)
            return await queries.incident(incident_id)
        await db.execute_query_dict(
            """update incident set state = 'resolved', resolved_at = $1, resolved_by = $2,
               resolution = $3 where id = $4""",
            [now, clean_text(by, 64), words, incident_id],
        )
        await note_deed(
            db, row.dedupe_key, deed=Deed.RESOLVE, by=by, by_id=by_id, note=words, now=now
        )
    return await queries.incident(incident_id)


async def _is_first(db: BaseDBAsyncClient, incident: Incident, who: Person) -> bool:
    """True when nobody has asked for this end yet, since it was opened (again). Refuses
    SecondPersonNeeded where this person is the one who did."""
    last = (
        await IncidentAction.filter(
            incident_id=incident.id, action__in=[RESOLVE_ASKED, Deed.RESOLVE]
        )
        .using_db(db)
        .order_by("-at", "-id")
        .first()
    )
    if last is None or last.action != RESOLVE_ASKED:
        return True
    if is_same(Person(last.by, last.by_id), who):
        raise SecondPersonNeeded
    return False


async def _still_so(db: BaseDBAsyncClient, incident: IncidentView) -> Refused | None:
    """Why words cannot end it, as it stands under the locks of what it is about."""
    row = await Incident.get(id=incident.id)
    subject = row.dedupe_key.rpartition(":")[2]
    if row.kind == IncidentKind.UNSETTLED_NEWS and await _is_money_news_unsettled(db, subject):
        return NewsNotSettled()
    if row.kind == IncidentKind.REFUND_ABNORMAL:
        refund = (await lock_refunds(db, [subject])).get(subject)
        if refund is not None and refund.now.state is RefundState.ABNORMAL:
            return RefundStillAbnormal()
        if refund is not None and await _is_at_our_card(refund):
            return RefundNotPaidOut()
    if row.kind in rules.PAID_BUT_NOT_BOOKED and await _is_missing_in_ledger(row):
        return MoneyNotInLedger()
    if row.kind in WENT_ON and not await _streams_that_went_on(db, incident.id):
        return StreamStillStopped()
    return await _money_here(db, incident)


async def _is_at_our_card(refund: LockedRefund) -> bool:
    """True of a redirected refund that has arrived and that nobody booked as paid out. Where the
    channel said a no to one of several orders, a person finds out to whom the money went."""
    if refund.now.state is not RefundState.SUCCEEDED or not refund.now.is_redirected:
        return False
    return not await IncidentAction.filter(
        refund_id=refund.now.id, action__in=[PAID_BY_HAND, REDIRECT_REFUSED]
    ).exists()


async def _is_money_news_unsettled(db: BaseDBAsyncClient, notice_id: str) -> bool:
    """True of news of a success or a refund that waits or was given up: redriving is its end.
    No lock: what was settled once stays so."""
    rows = await db.execute_query_dict(
        """select from pay_notice where id = $1::uuid and handled_at is null
           and (report->>'state' = 'paid' or refund is not null)""",
        [notice_id],
    )
    return bool(rows)


async def _is_missing_in_ledger(incident: Incident) -> bool:
    """True when the bill's money is of a payment of ours, which asking the channel again would
    settle, and not booked. Money under a stranger's number is a person's to explain."""
    if not incident.channel_trade_no:
        return False
    # Not through the model, which raises for a number longer than any of ours.
    ours = await Tortoise.get_connection("default").execute_query_dict(
        "select from pay_attempt where out_trade_no = $1", [whole_number(incident.out_trade_no)]
    )
    if not ours:
        return False
    key = rules.arrival_key(incident.account_id, incident.channel_trade_no)
    return await arrival_by_key(key) is None


async def _money_here(db: BaseDBAsyncClient, incident: IncidentView) -> Refused | None:
    """Under the lock of the arrival: no refund of it ends meanwhile."""
    if not incident.channel_trade_no:
        return None
    money = await arrival_by_key(rules.arrival_key(incident.account_id, incident.channel_trade_no))
    if money is None:
        return None
    (standing,) = await lock_standings(db, [money], [])
    claim = await open_claim_fen(money.account_id, money.our_no, money.channel_no)
    if claim > 0 or standing.rest_fen < 0:
        return OverpaidBack(claim_fen=max(claim, -standing.rest_fen))
    if money.kind != "suspense":
        return None
    left = refund_rules.unsettled_fen(
        standing.money.amount_fen,
        [(one.now.state, one.now.amount_fen) for one in standing.refunds],
        standing.settled_fen,
    )
    return MoneyInSuspense(suspense_fen=left) if left and not standing.money.is_applied else None


async def take_incident(
    *, incident_id: UUID, by: str, by_id: UUID | None = None, now: datetime
) -> IncidentView:
    """An officer takes an open incident on, also from a colleague; the history says so.

    Refuses IncidentNotFound, IncidentAlreadyResolved.
    """
    await queries.incident(incident_id)
    async with in_transaction() as db:
        rows = await db.execute_query_dict(
            """update incident set assigned_to = $1, assigned_to_id = $3
               where id = $2 and state = 'open' returning dedupe_key""",
            [clean_text(by, 64), incident_id, by_id],
        )
        if not rows:
            raise IncidentAlreadyResolved(incident_id=str(incident_id))
        await note_deed(db, rows[0]["dedupe_key"], deed=Deed.TAKE, by=by, by_id=by_id, now=now)
    return await queries.incident(incident_id)


async def note_on(
    incident_id: UUID,
    deed: Deed,
    *,
    by: str,
    by_id: UUID | None = None,
    note: str,
    now: datetime,
) -> None:
    """A trace of something done about an incident that changed nothing of the incident itself."""
    async with in_transaction() as db:
        rows = await db.execute_query_dict(
            "select dedupe_key from incident where id = $1", [incident_id]
        )
        for row in rows:
            await note_deed(
                db, row["dedupe_key"], deed=deed, by=by, by_id=by_id, note=note, now=now
            )


async def escalate_overdue(*, now: datetime, limit: int = 200) -> int:
    """Leave a trace on open incidents past their time, once for each time; how many. The list
    shows them first and the operator is alarmed. Two workers at once escalate each only once."""
    async with in_transaction() as db:
        locked = await db.execute_query_dict(
            """select i.id from incident i where i.state = 'open' and i.due_at < $1
               and not exists (select from incident_action a
                               where a.incident_id = i.id and a.action = 'escalate'
                                 and a.at >= i.due_at)
               order by i.due_at limit $2 for update of i skip locked""",
            [now, limit],
        )
        # Looked at again under the lock: another worker may just have done it. What opened again
        # has a new time, which is escalated anew.
        overdue = await db.execute_query_dict(
            """select i.dedupe_key from incident i where i.id = any($1::uuid[])
               and not exists (select from incident_action a
                               where a.incident_id = i.id and a.action = 'escalate'
                                 and a.at >= i.due_at)""",
            [[row["id"] for row in locked]],
        )
        for row in overdue:
            await note_deed(
                db, row["dedupe_key"], deed=Deed.ESCALATE, by=SYSTEM, note="超过处理时限", now=now
            )
    return len(overdue)


async def end_gate_stops(*, now: datetime, limit: int = 200) -> int:
    """Resolve what told that a stream of the gate stands still, where it has gone on since, and
    that a row of it was set aside, where that is over: no person is needed any more; how many."""
    async with in_transaction() as db:
        gone_on = await _streams_that_went_on(db, limit=limit)
        ended = await db.execute_query_dict(
            """update incident set state = 'resolved', resolved_at = $1, resolved_by = $2,
               resolution = coalesce(
                 (select $5::jsonb ->> r.healed_by from gate_refused_row r
                  where kind = $6 and r.id = (evidence->>'row')::uuid), $3::jsonb ->> kind)
               where id = any($4::uuid[]) and state = 'open'
               returning dedupe_key, resolution""",
            [
                now,
                SYSTEM,
                msgspec.json.encode(WENT_ON).decode(),
                gone_on,
                msgspec.json.encode(ROW_IS_OVER).decode(),
                GATE_ROW_REFUSED,
            ],
        )
        for row in ended:
            await note_deed(
                db, row["dedupe_key"], deed=Deed.RESOLVE, by=SYSTEM, note=row["resolution"], now=now
            )
    return len(ended)


async def _streams_that_went_on(
    db: BaseDBAsyncClient, incident_id: UUID | None = None, limit: int = 1
) -> list[UUID]:
    """Open incidents of streams that do not stand still any more since that moment, or that have
    room again, or the row that was refused."""
    found = await db.execute_query_dict(
        """select i.id from incident i
           where i.state = 'open' and ($2::uuid is null or i.id = $2) and (
             i.kind = $1 and not exists (
               select from gate_incoming_stream s where s.stream = i.evidence->>'stream'
                 and s.stopped_at = (i.evidence->>'stopped_at')::timestamptz)
             or i.kind = $4 and exists (
               select from gate_event e where e.stream = i.evidence->>'stream'
                 and e.kind = 'room_again' and e.distinction = i.evidence->>'shortage')
             or i.kind = $5 and not exists (
               select from gate_refused_row r
               where r.id = (i.evidence->>'row')::uuid and r.healed_at is null))
           order by i.opened_at, i.id limit $3""",
        [GATE_STOPPED, incident_id, limit, GATE_NO_ROOM, GATE_ROW_REFUSED],
    )
    return [row["id"] for row in found]


async def adopt_unowned(*, now: datetime, limit: int = 200) -> int:
    """Open an incident for money in suspense that has no open one and is not on its way back, and
    again for each refund of our own making whose incident is missing; how many.

    Neither happens by our own doing: this is the remedy for rows lost from the database, and for
    incidents that were closed in words while that was possible.
    """
    async with in_transaction() as db:
        notes = [*await _unowned_suspense(db, limit), *await _unexplained_refunds(db, limit)]
        await put_incidents(db, notes, now=now)
    return len(notes)


async def _unexplained_refunds(db: BaseDBAsyncClient, limit: int) -> list[IncidentNote]:
    rows = await db.execute_query_dict(
        """select r.* from pay_refund r where r.cause in ('double_payment', 'paid_late',
           'bill_changed') and r.incident_key <> ''
           and not exists (select from incident i where i.dedupe_key = r.incident_key)
           order by r.id limit $1""",
        [limit],
    )
    return [
        IncidentNote(
            kind=row["incident_key"].partition(":")[0],
            channel=row["channel"],
            account_id=row["account_id"],
            out_trade_no=row["out_trade_no"],
            channel_trade_no=row["channel_trade_no"],
            amount_fen=row["total_fen"],
            order_id=row["order_id"],
            distinction=row["incident_key"].rpartition(":")[2],
            evidence={"refund_no": row["refund_no"], "state": row["state"]},
        )
        for row in rows
    ]


async def _unowned_suspense(db: BaseDBAsyncClient, limit: int) -> list[IncidentNote]:
    rows = await db.execute_query_dict(
        f"""select t.id, t.order_id, t.our_no, t.channel_no, t.occurred_at, e.debit_fen,
                   substr(e.account, length('channel_clearing:') + 1) as account_id
            from ledger_transfer t join ledger_entry e on e.transfer_id = t.id
            where t.kind = 'suspense' and e.account like 'channel_clearing:%' and e.debit_fen > 0
            and {FORGOTTEN} order by t.id limit $1""",  # noqa: S608  (our own constant)
        [limit],
    )
    return [
        IncidentNote(
            kind=IncidentKind.UNOWNED_SUSPENSE,
            channel=row["account_id"].partition(":")[0],
            account_id=row["account_id"],
            out_trade_no=row["our_no"],
            channel_trade_no=row["channel_no"],
            amount_fen=row["debit_fen"],
            order_id=row["order_id"],
            distinction=row["channel_no"],
            evidence={"transfer_id": str(row["id"]), "occurred_at": row["occurred_at"]},
        )
        for row in rows
    ]
