"""Finance of a city: days are reconciled with the channels' bills, what they cost is booked and
told, and payees are instructed; at the end all of it against the channels' own memory."""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final

from tortoise import Tortoise

from estation.payments import rules
from estation.payments.api import make_split_export
from estation.payments.errors import NothingToInstruct
from estation.reconciliation.api import Kind, RunState, fee_days, reconcile_day, split_fees
from estation.services import Services
from estation.shared.clock import beijing_day
from estation.simulation.channels import Paid
from estation.simulation.desk import MAKER
from estation.simulation.statements import BillDesk, whole_fen

SELDOM: Final = 0.3
"""Chance at each round of the city's work that a day that is over is looked at."""


class Finance:
    def __init__(
        self, services: Services, bills: BillDesk, first: date, chance: random.Random
    ) -> None:
        self._services = services
        self._bills = bills
        self._first = first
        self._chance = chance

    def days_over(self, now: datetime) -> list[date]:
        count = (beijing_day(now) - self._first).days
        return [self._first + timedelta(days=number) for number in range(count)]

    def is_minded(self) -> bool:
        return self._chance.random() < SELDOM

    async def reconcile(self, day: date, *, now: datetime) -> None:
        await reconcile_day(day, services=self._services, now=now)

    async def instruct(self, day: date, *, now: datetime) -> None:
        """A file for each collecting account, as the page makes it."""
        for account_id in self._collecting():
            late = await fee_days(account_id, now=now)
            try:
                await make_split_export(
                    day=day,
                    account_id=account_id,
                    by=MAKER,
                    fees=await split_fees(day, account_id, now=now, late=late),
                    fee_days=late,
                    settings=self._services.settings,
                    now=now,
                )
            except NothingToInstruct:
                continue

    async def faults(self, paid: Collection[Paid], *, now: datetime) -> list[str]:
        """What is not as the channels' bills have it, once every day was reconciled in peace."""
        set_aside = await _set_aside()
        found: list[str] = []
        for day in self.days_over(now):
            found += await self._faults_of(day, paid, set_aside)
        found += await self._wrong_fees()
        found += await self._wrong_evidence(paid, set_aside, await _applied_later())
        for account_id in self._collecting():
            found += await _wrong_instructions(account_id)
            found += await self._wrong_told_fees(account_id)
        return found

    def fees_of(self, account_id: str) -> int:
        """What the channel kept, by its own bills as they were given last."""
        return sum(
            bill.fee_fen() for (of, _), bill in self._bills.given.items() if of == account_id
        )

    def _collecting(self) -> list[str]:
        return sorted(set(self._services.settings.collecting_accounts.values()))

    async def _faults_of(
        self, day: date, paid: Collection[Paid], set_aside: Collection[str]
    ) -> list[str]:
        runs = await _rows(
            """select id, state from reconciliation_run where day = $1
               order by started_at desc, id desc limit 1""",
            day,
        )
        if not runs or runs[0]["state"] == RunState.BLOCKED:
            return [f"{day}: not reconciled: {runs}"]
        rows = await _rows(
            """select kind, account_id, out_trade_no from reconciliation_difference
               where run_id = $1""",
            runs[0]["id"],
        )
        there = Counter(tuple(row.values()) for row in rows)
        due = Counter(self._differences_due(day, paid, set_aside))
        return [
            f"{day}: difference {one}: {there[one]} found, {due[one]} there"
            for one in sorted(there.keys() | due.keys())
            if there[one] != due[one]
        ]

    def _differences_due(
        self, day: date, paid: Collection[Paid], set_aside: Collection[str]
    ) -> Iterable[tuple[str, str, str]]:
        for account_id in {one.account_id for one in paid}:
            wrong = self._bills.wrong_on(account_id, day)
            if wrong and wrong.kind is Kind.MISSING_IN_LEDGER:
                yield wrong.kind, account_id, f"X{wrong.out_trade_no}"
            elif wrong:
                yield wrong.kind, account_id, wrong.out_trade_no
        for one in paid:
            if beijing_day(one.at) == day and one.out_trade_no in set_aside:
                wrong = self._bills.wrong_on(one.account_id, day)
                if not (wrong and wrong.out_trade_no == one.out_trade_no and wrong.hides):
                    yield Kind.IN_SUSPENSE, one.account_id, one.out_trade_no

    async def _wrong_fees(self) -> list[str]:
        rows = await _rows(
            """select split_part(account, ':', 2) || ':' || split_part(account, ':', 3) as of,
                      sum(debit_fen - credit_fen)::bigint as fen
               from ledger_entry where starts_with(account, 'channel_fee:') group by 1"""
        )
        ours = {row["of"]: row["fen"] for row in rows}
        accounts = {account_id for account_id, _ in self._bills.given} | ours.keys()
        return [
            f"fees of {account_id}: ours {ours.get(account_id, 0)}, channel {fen}"
            for account_id in sorted(accounts)
            if ours.get(account_id, 0) != (fen := self.fees_of(account_id))
        ]

    async def _wrong_evidence(
        self, paid: Collection[Paid], set_aside: Collection[str], applied: Collection[str]
    ) -> list[str]:
        """Money that was set aside proves nothing, until it pays its order after all."""
        told: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in await _rows(_EVIDENCE):
            told[row["key"]].append(row)
        found = []
        for one in paid:
            key = rules.arrival_key(one.account_id, one.trade_no)
            late = f"applied:{key}"
            pays = late in applied or one.out_trade_no not in set_aside
            lines = self._lines_of(one) if pays else []
            found += _wrong_words(one, lines, told.pop(late if late in applied else key, []))
        found += [f"evidence of {key}, which no channel has" for key in told]
        rows = await _rows(_EVIDENCE_SENT)
        if len({row["n"] for row in rows}) != 1:
            found.append(f"evidence kept and sent: {rows}")
        return found

    def _lines_of(self, paid: Paid) -> list[tuple[str, int]]:
        """(digest of the bill, line) of what proves it: both lines of one that is doubled."""
        bill = self._bills.given.get((paid.account_id, beijing_day(paid.at)))
        if bill is None:
            return []
        return [
            (bill.sha256, line.line_no)
            for line in bill.lines
            if line.kind == "payment"
            and (line.out_trade_no, line.channel_trade_no, line.amount_fen)
            == (paid.out_trade_no, paid.trade_no, paid.amount_fen)
        ]

    async def _wrong_told_fees(self, account_id: str) -> list[str]:
        """The fees that payees were told, against the lines of what they got and gave back."""
        fees = {
            (line.channel_trade_no, line.refund_no): whole_fen(line.fee_fen_e3)
            for (of, _), bill in sorted(self._bills.given.items())
            for line in bill.lines
            if of == account_id
        }
        moved = await _rows(_MOVED, account_id)
        due = sum(fees.get((row["channel_no"], row["refund_no"]), 0) for row in moved)
        (row,) = await _rows(_TOLD_FEES, account_id)
        return [] if row["fen"] == due else [f"{account_id}: fees told {row['fen']}, {due} there"]


_EVIDENCE: Final = """
select t.idempotency_key as key, e.bill_id, e.file_digest, e.file_line,
       (e.said ->> 'bill_fen')::bigint as bill_fen, (e.said ->> 'amount_fen')::bigint as amount_fen
from payment_evidence e join ledger_transfer t on t.id = e.transfer_id
order by t.idempotency_key, e.bill_id, e.version
"""

_EVIDENCE_SENT: Final = """
select 'kept' as place, count(*) as n from payment_evidence
union all select 'sent', count(*) from outbox_message
    where topic = 'payment_evidence' and sent_at is not null
union all select 'crossing', count(*) from gate_outgoing_row where topic = 'payment_evidence'
"""

_MOVED: Final = """
select distinct t.channel_no,
       case when t.kind = 'refund_start' then substr(t.idempotency_key, 14) end as refund_no
from ledger_transfer t join ledger_entry p on p.transfer_id = t.id
    and starts_with(p.account, 'payee_payable:')
where t.kind = 'payment' and exists (
        select from ledger_entry m where m.transfer_id = t.id
        and m.account in ('channel_clearing:' || $1, 'suspense:' || $1))
   or starts_with(t.idempotency_key, 'refund_start:') and exists (
        select from ledger_entry m where m.transfer_id = t.id
        and m.account = 'refund_in_flight:' || $1)
"""

_TOLD_FEES: Final = """
select coalesce(sum(case when is_refund then -fee_fen else fee_fen end), 0)::bigint as fen from (
    select export_id, is_refund, fee_fen from split_instruction
    union all select export_id, is_refund, fee_fen from split_fee_correction) told
join split_export x on x.id = told.export_id where x.account_id = $1
"""

_PAYEES: Final = """
select payee, sum(owed)::bigint as owed, sum(instructed)::bigint as instructed from (
    select split_part(e.account, ':', 2) as payee, e.credit_fen - e.debit_fen as owed,
           0 as instructed
    from ledger_entry e where starts_with(e.account, 'payee_payable:') and exists (
        select from ledger_entry m where m.transfer_id = e.transfer_id and m.account in
            ('channel_clearing:' || $1, 'suspense:' || $1, 'refund_in_flight:' || $1))
    union all
    select i.payee_code, 0, case when i.is_refund then -i.amount_fen else i.amount_fen end
    from split_instruction i join split_export x on x.id = i.export_id and x.account_id = $1) sides
group by payee having sum(owed) <> sum(instructed) order by payee
"""


async def _wrong_instructions(account_id: str) -> list[str]:
    return [
        f"{account_id}: {row['payee']} instructed {row['instructed']}, owed {row['owed']}"
        for row in await _rows(_PAYEES, account_id)
    ]


def _wrong_words(
    paid: Paid, lines: Collection[tuple[str, int]], told: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Of each bill that was paid the newest word is that of a line of the newest file, all their
    shares are the payment, and nothing was said twice in a row."""
    by_bill: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in told:
        by_bill[row["bill_id"]].append(row)
    newest = [rows[-1] for rows in by_bill.values()]
    if not lines and newest:
        return [f"{paid.out_trade_no}: evidence without a line: {newest}"]
    found = []
    if lines and sum(row["bill_fen"] for row in newest) != paid.amount_fen:
        found.append(f"{paid.out_trade_no}: evidence of {newest}, paid {paid.amount_fen}")
    for row in newest:
        if (row["file_digest"], row["file_line"]) not in lines:
            found.append(f"{paid.out_trade_no}: evidence of another line: {row}")
    for rows in by_bill.values():
        lines_told = [(row["file_digest"], row["file_line"]) for row in rows]
        if any(one == after for one, after in itertools.pairwise(lines_told)):
            found.append(f"{paid.out_trade_no}: the same evidence twice: {lines_told}")
    return found


async def _set_aside() -> set[str]:
    """The numbers of money that came into suspense, whatever became of it since."""
    rows = await _rows("select our_no from ledger_transfer where kind = 'suspense'")
    return {row["our_no"] for row in rows}


async def _applied_later() -> set[str]:
    """The keys of what took money out of suspense, to pay its order after all."""
    rows = await _rows(
        "select idempotency_key as key from ledger_transfer"
        " where starts_with(idempotency_key, 'applied:')"
    )
    return {row["key"] for row in rows}


async def _rows(sql: str, *values: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return found
