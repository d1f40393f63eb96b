"""What the alarms of either side look at: how old, how late, why a stream stands still."""

from estation.outside.gate import shortage
from estation.shared.signals import Signal

LAG = Signal(
    "estation_gate_lag_seconds",
    "How old the newest complete picture from inside is",
    ("stream",),
    """select stream, extract(epoch from $1::timestamptz - watermark) as value
       from gate_incoming_stream where watermark is not null""",
)
STOPPED = Signal(
    "estation_gate_stopped",
    "1 when an incoming stream stands still",
    ("stream", "reason"),
    """select stream, stopped_reason as reason, (stopped_reason <> '')::int as value,
              $1::timestamptz
       from gate_incoming_stream""",
)
WAITING = Signal(
    "estation_gate_waiting_seconds",
    "Age of the oldest row that waits to be packed for the inside",
    ("stream",),
    """select stream, extract(epoch from $1::timestamptz - min(created_at)) as value
       from gate_outgoing_row where packed_seq is null group by stream""",
)
NO_ROOM = Signal(
    "estation_gate_no_room",
    "1 while something of a stream is refused for want of room",
    ("stream", "place"),
    f"""select e.stream, e.detail ->> 'where' as place, 1 as value, $1::timestamptz
        from {shortage.OPEN}""",  # noqa: S608
)
FINDINGS = Signal(
    "estation_gate_findings_open",
    "What the gate refused, healed, could not heal, or does not know, in the last day",
    ("kind",),
    """select 'gate_' || k.kind as kind, count(e.id) as value
       from (values ('repaired'), ('unhealed'), ('phantom'), ('jumped'), ('file_incomplete'),
                    ('stopped'), ('no_room'), ('row_refused')) k(kind)
       left join gate_event e on e.kind = k.kind and e.at > $1::timestamptz - interval '1 day'
       group by k.kind""",
)
"""Where no table of incidents says which of them somebody has dealt with."""
