"""What the alarms look at: ages and counts read from the database when somebody asks.

Read at each scrape rather than kept by the worker: a worker that died cannot tell so, but what
it leaves lying grows old. Plain SQL over several contexts' tables, each held small by an index.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from estation.outside.gate import signals as gate_signals
from estation.payments.invariants import INVARIANTS
from estation.shared.signals import Reading, Signal, read

_AGE = "coalesce(extract(epoch from $1::timestamptz - min({column})), 0)"


def _age(column: str) -> str:
    return _AGE.format(column=column)


SILENCE_FORGOTTEN = "interval '15 minutes'"
"""A silence that nobody heard again for so long is none: a channel that is out and asked about
anything is tried every two minutes."""

SIGNALS: Sequence[Signal] = (
    Signal(
        "estation_invariant_breaches",
        "Rows that break an invariant, as of its last look",
        ("name",),
        "select name, breaches as value, $1::timestamptz from invariant_check",
    ),
    Signal(
        "estation_invariants_last_run_timestamp_seconds",
        "When the invariant that waits longest was looked at; 0: one never was",
        (),
        """select case when count(*) = {rules} then extract(epoch from min(checked_at)) else 0 end
               as value, $1::timestamptz
           from invariant_check""",
    ),
    Signal(
        "estation_invariants_duration_seconds",
        "What the last looks took together",
        (),
        "select coalesce(sum(took_ms), 0) / 1000.0 as value, $1::timestamptz from invariant_check",
    ),
    Signal(
        "estation_inbox_oldest_unhandled_seconds",
        "Age of the oldest channel notice that is not handled; 0: none",
        (),
        f"select {_age('received_at')} as value from pay_notice where handled_at is null",  # noqa: S608
    ),
    Signal(
        "estation_sweep_late_seconds",
        "How late the most overdue question to a channel is; 0: none is due",
        (),
        f"""select {_age("next_query_at")} as value from pay_attempt
            where next_query_at <= $1""",  # noqa: S608
    ),
    Signal(
        "estation_channel_out_seconds",
        "For how long an account's channel has given no answer; absent while it answers",
        ("account_id",),
        f"""select account_id, extract(epoch from $1::timestamptz - since) as value
            from channel_silence where last_at > $1 - {SILENCE_FORGOTTEN}""",  # noqa: S608
    ),
    Signal(
        "estation_outbox_oldest_seconds",
        "Age of the oldest message that has not left; 0: none",
        (),
        f"""select {_age("created_at")} as value from outbox_message
            where sent_at is null and dead_at is null and created_at <= $1""",  # noqa: S608
    ),
    Signal(
        "estation_outbox_dead",
        "Messages set aside after too many failures",
        (),
        """select count(*) as value, $1::timestamptz from outbox_message
           where dead_at is not null and sent_at is null""",
    ),
    Signal(
        "estation_incident_oldest_seconds",
        "Age of the oldest open incident by owner",
        ("owner",),
        f"""select o.owner, {_age("i.opened_at")} as value
            from (values ('finance'), ('operator')) o(owner)
            left join incident i on i.owner = o.owner and i.state = 'open' group by o.owner""",  # noqa: S608
    ),
    Signal(
        "estation_incidents_overdue",
        "Open incidents past their time by owner",
        ("owner",),
        """select o.owner, count(i.id) as value from (values ('finance'), ('operator')) o(owner)
           left join incident i on i.owner = o.owner and i.state = 'open' and i.due_at < $1
           group by o.owner""",
    ),
    gate_signals.LAG,
    gate_signals.STOPPED,
    Signal(
        "estation_gate_findings_open",
        "Open incidents about what the gate refused, healed, could not heal, or does not know",
        ("kind",),
        """select k.kind, count(i.id) as value, $1::timestamptz
           from (values ('gate_repaired'), ('gate_unhealed'), ('gate_phantom'), ('gate_jumped'),
                        ('gate_file_incomplete'), ('gate_stopped'), ('gate_no_room'),
                        ('gate_row_refused')) k(kind)
           left join incident i on i.kind = k.kind and i.state = 'open' group by k.kind""",
    ),
    gate_signals.WAITING,
    gate_signals.NO_ROOM,
)


async def read_signals(*, now: datetime) -> list[Reading]:
    """All gauges as of now. Raises what the database raises when it is away."""
    return [await read(_with_count(signal), now=now) for signal in SIGNALS]


def _with_count(signal: Signal) -> Signal:
    return replace(signal, sql=signal.sql.replace("{rules}", str(len(INVARIANTS))))
