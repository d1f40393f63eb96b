"""What changes with a refund, put down in memory first and then written set by set.

Used by settle for the channels' news, and by the actions that ask for and decide a refund.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

from msgspec import to_builtins
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.fees.api import mark_refunded
from estation.ledger.api import (
    Leg,
    TransferInput,
    clearing,
    overpaid_back,
    payee_payable,
    post_many,
    refund_in_flight,
    suspense,
)
from estation.outside.gate.rows import RefundRow, RefundShareRow
from estation.outside.pay_channels import Channel, RefundReport
from estation.payments import refund_rules
from estation.payments.actions.refund_locking import LockedRefund, Pot
from estation.payments.actions.storing import FINANCE, IncidentNote, put_incidents
from estation.payments.persons import Person
from estation.payments.refund_rules import RefundNow, RefundVerdict, Share
from estation.payments.rules import (
    IncidentKind,
    RefundCause,
    RefundSource,
    RefundState,
)
from estation.shared import ids
from estation.shared.jsonb import clean_text, jsonb_text


class BillName(Protocol):
    """What names a bill to the centre."""

    @property
    def source(self) -> str: ...
    @property
    def source_id(self) -> str: ...
    @property
    def bill_no(self) -> str: ...


_STATE_TOLD: Mapping[RefundState, Literal["refunding", "refunded", "not_refunded"]] = {
    RefundState.APPROVED: "refunding",
    RefundState.PROCESSING: "refunding",
    RefundState.ABNORMAL: "refunding",
    RefundState.SUCCEEDED: "refunded",
    RefundState.CLOSED: "not_refunded",
}

_PUT = """
insert into pay_refund (id, refund_no, request_id, cause, state, taken_from, channel, account_id,
    out_trade_no, channel_trade_no, arrival_id, order_id, incident_key, region, amount_fen,
    total_fen, reason, source, source_id, asked_by, asked_at, decided_by, decided_at,
    decision_note, received_account, tries, next_try_at, last_error, version, asked_by_id)
select t.id, t.refund_no, t.request_id, t.cause, t.state, t.taken_from, t.channel, t.account_id,
    t.out_trade_no, t.channel_trade_no, t.arrival_id, t.order_id, t.incident_key, t.region,
    t.amount_fen, t.total_fen, t.reason, t.source, t.source_id, t.asked_by, $2::timestamptz,
    t.decided_by, t.decided_at, '', '', 0, t.next_try_at, '', t.version,
    t.asked_by_id
from json_to_recordset($1::json) as t(
    id uuid, refund_no text, request_id uuid, cause text, state text, taken_from text,
    channel text, account_id text, out_trade_no text, channel_trade_no text, arrival_id uuid,
    order_id uuid, incident_key text, region text, amount_fen bigint, total_fen bigint,
    reason text, source text, source_id text, asked_by text, decided_by text,
    decided_at timestamptz, next_try_at timestamptz, version int, asked_by_id uuid)
order by t.id
"""

_PUT_SHARES = """
insert into pay_refund_share (id, refund_id, bill_id, payee_code, amount_fen)
select t.id, t.refund_id, t.bill_id, t.payee_code, t.amount_fen
from json_to_recordset($1::json) as t(
    id uuid, refund_id uuid, bill_id uuid, payee_code text, amount_fen bigint)
"""

_MOVE = """
update pay_refund r set state = t.state,
    channel_refund_no = coalesce(t.channel_refund_no, r.channel_refund_no),
    received_account = case when t.received_account <> '' then t.received_account
                            else r.received_account end,
    ended_at = case when t.is_end then $2::timestamptz end,
    next_try_at = case when t.is_end then null
                       when t.state = 'approved' then $2::timestamptz
                       else coalesce(r.next_try_at, $2::timestamptz) end,
    decided_by = coalesce(t.decided_by, r.decided_by),
    decided_by_id = coalesce(t.decided_by_id, r.decided_by_id),
    decided_at = case when t.decided_by is null then r.decided_at else $2::timestamptz end,
    decision_note = coalesce(t.decision_note, r.decision_note),
    last_error = case when t.is_end then '' else r.last_error end,
    version = t.version
from json_to_recordset($1::json) as t(
    id uuid, state text, channel_refund_no text, received_account text, is_end boolean,
    decided_by text, decided_by_id uuid, decision_note text, version int)
where r.id = t.id
"""

_GIVEN_BACK = """
select distinct ob.bill_id, ob.bill_version from pay_order_bill ob
where ob.order_id = any($1::uuid[]) and ob.amount_fen <= (
    select coalesce(sum(s.amount_fen), 0) from pay_refund r join pay_refund_share s
        on s.refund_id = r.id and s.bill_id = ob.bill_id
    where r.order_id = ob.order_id and r.taken_from = 'payment' and r.state = 'succeeded')
"""

_RESOLVE = """
with proof as (
    select * from json_to_recordset($1::json) as t(
        key text, note text, refund_id uuid, transfer_id uuid, action_id uuid, is_whole boolean,
        is_payment boolean)
), done as (
    update incident i set state = 'resolved', resolved_at = $2::timestamptz,
        resolved_by = 'system', resolution = p.note
    from proof p where i.dedupe_key = p.key and i.state = 'open' and (
        select count(*) filter (where d.action = 'redirect_refund')
             <= count(*) filter (where d.action = 'redirect_refused')
        from incident_action d where d.refund_id = p.refund_id
    ) and (p.is_whole or p.is_payment and i.amount_fen <= (
        select sum(r.amount_fen) from pay_refund r
        where r.incident_key = p.key and r.state = 'succeeded'
    ) or not p.is_payment and exists (
        select from pay_refund me where me.id = p.refund_id and me.total_fen = (
            select sum(r.amount_fen) from pay_refund r
            where r.arrival_id = me.arrival_id and r.state = 'succeeded') + (
            select coalesce(sum(s.amount_fen), 0) from outside_settlement s
            where s.arrival_id = me.arrival_id and s.state = 'approved')))
    returning i.id, p.note, p.refund_id, p.transfer_id, p.action_id
)
insert into incident_action (id, incident_id, action, by, at, note, refund_id, transfer_id)
select action_id, id, 'refunded', 'system', $2::timestamptz, note, refund_id, transfer_id
from done
"""
# `is_whole`: the proof does not depend on how much of the arrival went back, or was settled
# outside. Of a payment so much must have gone back under the incident as it is about: the sum of
# the refund that closed. A redirected refund brought the money to our own card: its incidents stay
# open (unless the channel refused each order) until a person has paid the citizen.

_NOTE = """
with noted as (
    update incident i set evidence = i.evidence || jsonb_build_object('refund', t.said),
        state = 'open', resolved_at = null, resolved_by = '', resolution = '',
        due_at = case when i.state = 'open' then i.due_at
                      else $2::timestamptz + interval '24 hours' end
    from json_to_recordset($1::json) as t(
        key text, said jsonb, note text, refund_id uuid, transfer_id uuid, action_id uuid)
    where i.dedupe_key = t.key
    returning i.id, t.note, t.refund_id, t.transfer_id, t.action_id
)
insert into incident_action (id, incident_id, action, by, at, note, refund_id, transfer_id)
select action_id, id, note, 'system', $2::timestamptz, '', refund_id, transfer_id from noted
"""

# Closed in words while its refund was under way, it opens again: the money is still here.

_TELL = """
insert into outbox_message (id, topic, body, created_at, not_before, tries, last_error)
select t.id, 'refund', t.body, $2::timestamptz, $2::timestamptz, 0, ''
from json_to_recordset($1::json) as t(id uuid, body jsonb)
"""


class RefundWriting:
    """Collects changes of refunds; the refunds given to it show the state after them.

    The caller posts `transfers` and `incidents` with its own, then calls `write`. Every refund
    it touches is new or under the lock of its arrival, its bills are locked.
    """

    def __init__(self, now: datetime, bills: Mapping[str, BillName]) -> None:
        self._now = now
        self._bills = bills  # by the id's text
        self.transfers: list[TransferInput] = []
        self.incidents: list[IncidentNote] = []
        self._new: list[dict[str, Any]] = []
        self._shares: list[dict[str, Any]] = []
        self._moves: dict[UUID, dict[str, Any]] = {}
        self._hurried: set[UUID] = set()
        self._given_back: set[UUID] = set()  # orders
        self._proofs: list[dict[str, Any]] = []
        self._notes: list[dict[str, Any]] = []
        self._messages: list[dict[str, Any]] = []

    def add(
        self,
        refund: LockedRefund,
        *,
        request_id: UUID,
        asked_by: str,
        asked_by_id: UUID | None = None,
        decided_by: str = "",
    ) -> None:
        """A new refund. One that is approved reserves its money at once, and is told."""
        is_approved = refund.now.state is RefundState.APPROVED
        if is_approved:
            self._start(refund)
            self._tell(refund, at=self._now)
        self._new.append(
            {
                "id": refund.now.id,
                "refund_no": refund.now.refund_no,
                "request_id": request_id,
                "cause": refund.cause,
                "state": refund.now.state,
                "taken_from": refund.taken_from,
                "channel": refund.channel,
                "account_id": refund.now.account_id,
                "out_trade_no": refund.now.out_trade_no,
                "channel_trade_no": refund.channel_trade_no,
                "arrival_id": refund.arrival_id,
                "order_id": refund.order_id,
                "incident_key": refund.incident_key,
                "region": refund.region,
                "amount_fen": refund.now.amount_fen,
                "total_fen": refund.total_fen,
                "reason": refund.reason,
                "source": refund.source,
                "source_id": refund.source_id,
                "asked_by": asked_by,
                "asked_by_id": asked_by_id,
                "decided_by": decided_by,
                "decided_at": self._now if is_approved else None,
                "next_try_at": self._now if is_approved else None,
                "version": max(1, refund.told),
            }
        )
        self._shares += [
            {"id": self._id(), "refund_id": refund.now.id, **asdict(share)}
            for share in refund.shares
        ]

    def approve(self, refund: LockedRefund, *, by: Person, note: str) -> None:
        self._move(refund, RefundState.APPROVED, decided_by=by, decision_note=note)
        self._start(refund)
        self._tell(refund, at=self._now)

    def reject(self, refund: LockedRefund, *, by: Person, note: str) -> None:
        self._move(refund, RefundState.REJECTED, decided_by=by, decision_note=note)

    def follow(
        self, refund: LockedRefund, report: RefundReport, verdict: RefundVerdict
    ) -> str | None:
        """Do what the judgement on the channel's word says; the transfer it posted, if any."""
        if verdict.to is RefundState.SUCCEEDED:
            return self._succeed(refund, report, again=verdict.again)
        if verdict.to is RefundState.CLOSED:
            return self._close(refund, report)
        if verdict.to is not None:
            self._note_progress(refund, report, verdict.to)
        return None

    def hurry(self, refund: LockedRefund) -> None:
        """The channel says that something happened, but not what: ask it without delay."""
        if refund.now.state in refund_rules.IN_FLIGHT:
            self._hurried.add(refund.now.id)

    def _note_progress(self, refund: LockedRefund, report: RefundReport, to: RefundState) -> None:
        """Processing or abnormal: nothing moves in the books."""
        self._move(refund, to, report)
        if to is RefundState.ABNORMAL:
            self._note(refund, report, "refund_abnormal", None)

    def _succeed(self, refund: LockedRefund, report: RefundReport, *, again: bool) -> str:
        """The money left our account; the id of the transfer that says so."""
        if again:
            self._start(refund, again=True)
        self._move(refund, RefundState.SUCCEEDED, report)
        at = report.at or self._now
        flying = refund_in_flight(refund.now.account_id)
        transfer_id = self._post(
            refund,
            key=refund_rules.refund_key(refund.now.refund_no),
            kind="refund",
            channel_no=(report.channel_refund_no or refund.now.refund_no)[:64],
            occurred_at=at,
            legs=[
                Leg(flying, debit_fen=refund.now.amount_fen),
                Leg(clearing(refund.now.account_id), credit_fen=refund.now.amount_fen),
            ],
        )
        if refund.taken_from is RefundSource.PAYMENT and refund.order_id is not None:
            self._given_back.add(refund.order_id)
        self._prove(refund, transfer_id)
        self._tell(refund, at=at, transfer_id=transfer_id)
        return transfer_id

    def _close(self, refund: LockedRefund, report: RefundReport) -> str:
        """Certain: not given back. The reservation is reversed."""
        self._move(refund, RefundState.CLOSED, report)
        transfer_id = self._post(
            refund,
            key=refund_rules.reversal_key(refund.now.refund_no),
            kind="refund_reversal",
            channel_no=refund.channel_trade_no,
            occurred_at=self._now,
            legs=_legs(refund, back=True)[0],
        )
        self._note(refund, report, "refund_closed", transfer_id)
        self._tell(refund, at=self._now)
        return transfer_id

    async def post_and_write(self, db: BaseDBAsyncClient) -> None:
        """For callers that have nothing else to post."""
        await post_many(self.transfers, now=self._now, db=db)
        await put_incidents(db, self.incidents, now=self._now)
        await self.write(db)

    async def write(self, db: BaseDBAsyncClient) -> None:
        """After the transfers and the incidents; a fixed order of tables."""
        for sql, rows in (
            (_PUT, self._new),
            (_PUT_SHARES, self._shares),
            (_MOVE, list(self._moves.values())),
            (_RESOLVE, self._proofs),
            (_NOTE, self._notes),
            (_TELL, self._messages),
        ):
            if rows:
                values = [jsonb_text(rows)]
                await db.execute_query_dict(
                    sql, values if sql is _PUT_SHARES else [*values, self._now]
                )
        if self._hurried:
            await db.execute_query_dict(
                "update pay_refund set next_try_at = $1"
                " where id = any($2::uuid[]) and next_try_at is not null",
                [self._now, sorted(self._hurried)],
            )
        if self._given_back:
            rows = await db.execute_query_dict(_GIVEN_BACK, [sorted(self._given_back)])
            await mark_refunded([(row["bill_id"], row["bill_version"]) for row in rows])

    def _move(
        self,
        refund: LockedRefund,
        to: RefundState,
        report: RefundReport | None = None,
        *,
        decided_by: Person | None = None,
        decision_note: str | None = None,
    ) -> None:
        refund.now.move(to)
        number = report.channel_refund_no if report else None
        if number:
            refund.channel_refund_no = clean_text(number, 64)
        self._moves[refund.now.id] = {
            "id": refund.now.id,
            "state": to,
            "channel_refund_no": refund.channel_refund_no,
            "received_account": clean_text(report.received_account, 128) if report else "",
            "is_end": to not in refund_rules.UNFINISHED,
            "decided_by": decided_by.shown if decided_by else None,
            "decided_by_id": decided_by.account if decided_by else None,
            "decision_note": decision_note,
            "version": refund.told,
        }

    def _start(self, refund: LockedRefund, *, again: bool = False) -> None:
        legs, claimed = _legs(refund)
        if claimed:
            note = refund_incident(
                IncidentKind.REFUND_OVERPAID, refund, {"claim_fen": claimed}, owner=FINANCE
            )
            self.incidents.append(replace(note, amount_fen=claimed))
        self._post(
            refund,
            key=refund_rules.start_key(refund.now.refund_no, again=again),
            kind="refund_start",
            channel_no=refund.channel_trade_no,
            occurred_at=self._now,
            legs=legs,
        )

    def _post(
        self,
        refund: LockedRefund,
        *,
        key: str,
        kind: str,
        channel_no: str,
        occurred_at: datetime,
        legs: Sequence[Leg],
    ) -> str:
        transfer = TransferInput(
            id=self._id(),
            idempotency_key=key,
            kind=kind,
            region=refund.region,
            order_id=refund.order_id,
            our_no=refund.now.out_trade_no,
            channel_no=channel_no,
            occurred_at=occurred_at,
            legs=legs,
        )
        self.transfers.append(transfer)
        return transfer.id

    def _prove(self, refund: LockedRefund, transfer_id: str) -> None:
        """What waited for this refund is resolved by it."""
        note = f"已原路退回，退款单号 {refund.now.refund_no}"
        waits = [refund_incident_key(kind, refund.now) for kind in ENDS_WITH_SUCCESS]
        is_payment = refund.taken_from is RefundSource.PAYMENT
        for key in [*waits, *([refund.incident_key] if refund.incident_key else [])]:
            self._proofs.append(
                {
                    "key": key,
                    "note": note,
                    "refund_id": refund.now.id,
                    "transfer_id": transfer_id,
                    "action_id": self._id(),
                    "is_whole": key != refund.incident_key,
                    "is_payment": is_payment,
                }
            )

    def _note(
        self, refund: LockedRefund, report: RefundReport, what: str, transfer_id: str | None
    ) -> None:
        """The incident that waited for this refund is a person's now: it says why."""
        if refund.incident_key:
            said = {"refund_no": refund.now.refund_no, "what": what, "report": asdict(report)}
            self._notes.append(
                {
                    "key": refund.incident_key,
                    "said": said,
                    "note": what,
                    "refund_id": refund.now.id,
                    "transfer_id": transfer_id,
                    "action_id": self._id(),
                }
            )

    def _tell(self, refund: LockedRefund, *, at: datetime, transfer_id: str = "") -> None:
        """One message per bill; of money that was never applied the centre knows nothing."""
        by_bill: dict[str, list[Share]] = {}
        for share in refund.shares:
            by_bill.setdefault(str(share.bill_id), []).append(share)
        if by_bill:
            refund.told += 1
            if refund.now.id in self._moves:
                self._moves[refund.now.id]["version"] = refund.told
        for bill_id, shares in by_bill.items():
            bill = self._bills[bill_id]
            row = RefundRow(
                source=bill.source,
                source_id=bill.source_id,
                version=refund.told,
                refund_no=refund.now.refund_no,
                order_source_id=refund.source_id,
                order_no=refund.order_no,
                bill_no=bill.bill_no,
                state=_STATE_TOLD[refund.now.state],
                amount_fen=sum(share.amount_fen for share in shares),
                shares=[
                    RefundShareRow(payee_code=s.payee_code, amount_fen=s.amount_fen) for s in shares
                ],
                channel=refund.channel,
                channel_refund_no=refund.channel_refund_no or "",
                at=at,
                transfer_id=transfer_id,
                reason=refund.reason,
            )
            self._messages.append({"id": self._id(), "body": to_builtins(row)})

    def _id(self) -> str:
        return ids.row_id_texts(self._now, 1)[0]


ENDS_WITH_SUCCESS = (
    IncidentKind.REFUND_ABNORMAL,
    IncidentKind.REFUND_NOT_ENOUGH,
    IncidentKind.REFUND_UNFINISHED,
)


def refund_incident(
    kind: IncidentKind, refund: LockedRefund, evidence: dict[str, Any], *, owner: str
) -> IncidentNote:
    """One per kind and refund, however often it is found."""
    return IncidentNote(
        kind=kind,
        channel=refund.channel,
        account_id=refund.now.account_id,
        out_trade_no=refund.now.out_trade_no,
        channel_trade_no=refund.channel_trade_no,
        amount_fen=refund.now.amount_fen,
        order_id=refund.order_id,
        distinction=refund.now.refund_no,
        evidence={"refund_no": refund.now.refund_no, **evidence},
        owner=owner,
    )


def refund_incident_key(kind: IncidentKind, refund: RefundNow) -> str:
    return f"{kind}:{refund.account_id}:{refund.refund_no}"[:160]


def automatic_refund(
    *,
    now: datetime,
    cause: RefundCause,
    incident_key: str,
    transfer: TransferInput,
    account_id: str,
    channel: Channel,
    order_no: str,
    amount_fen: int,
) -> LockedRefund:
    """All of an arrival that was set aside, on its way back by the platform's own decision."""
    return LockedRefund(
        now=RefundNow(
            id=ids.row_id(now),
            refund_no=ids.trade_number(now),
            account_id=account_id,
            out_trade_no=transfer.our_no,
            amount_fen=amount_fen,
            state=RefundState.APPROVED,
        ),
        cause=cause,
        taken_from=RefundSource.SUSPENSE,
        channel=channel,
        channel_trade_no=transfer.channel_no,
        arrival_id=UUID(transfer.id),
        order_id=transfer.order_id,
        order_no=order_no,
        region=transfer.region,
        total_fen=amount_fen,
        reason=refund_rules.AUTOMATIC_REASON[cause],
        incident_key=incident_key,
        source="",
        source_id="",
        channel_refund_no=None,
        told=0,
        shares=[],
        pots=[Pot(amount_fen)],
    )


def _legs(refund: LockedRefund, *, back: bool = False) -> tuple[list[Leg], int]:
    """From where the money is to what is in flight, or `back`; and how much of it is a claim.

    What is not there any more is not taken from somebody else's money in the same account: it is
    a claim. What comes back ends such a claim first.
    """
    claimed, sums = 0, dict[str, int]()
    for (account, fen), pot in zip(_sources(refund), refund.pots, strict=True):
        part = pot.put_back(fen) if back else pot.take(fen)
        claimed += part
        sums[account] = sums.get(account, 0) + fen - part
    sums[overpaid_back(refund.now.account_id)] = claimed
    sums[refund_in_flight(refund.now.account_id)] = -refund.now.amount_fen
    debits = {account: -fen if back else fen for account, fen in sums.items() if fen}
    return [
        Leg(account, debit_fen=max(fen, 0), credit_fen=max(-fen, 0))
        for account, fen in debits.items()
    ], claimed


def _sources(refund: LockedRefund) -> list[tuple[str, int]]:
    if refund.taken_from is RefundSource.SUSPENSE:
        return [(suspense(refund.now.account_id), refund.now.amount_fen)]
    return [(payee_payable(share.payee_code), share.amount_fen) for share in refund.shares]
