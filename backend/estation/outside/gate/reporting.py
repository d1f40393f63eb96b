"""How each side learns what the other has received: as ordinary data in the opposite stream."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from msgspec import Struct
from tortoise import Tortoise

from estation.outside.gate import sending
from estation.outside.gate.arriving import Arrival
from estation.outside.gate.rows import ReceivedUpToRow
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

TOPIC = "received_up_to"
REPORT_EVERY = timedelta(seconds=5)
REPORT_IDLE_PACKETS = 60
"""So many packets without content are reported, too: the peer may forget them."""
REPORT_BEHIND_EVERY = timedelta(seconds=20)


async def report_back(stream: str, reply_stream: str, *, now: datetime) -> bool:
    """Tell the peer up to where its stream has been applied here; whether we did.

    Only after packets with content (reports and heartbeats are none, or the two sides would
    answer each other for ever) and at most once per REPORT_EVERY. Also when we stand still
    before packets that are here already, which says what to write again. A moment in the future
    was written by a clock that was wrong: it holds nothing up.
    """
    async with in_transaction() as tx:
        found = await tx.execute_query_dict(
            """update gate_incoming_stream set reported_seq = last_seq, reported_at = $2
               where stream = $1 and (
                 ((content_seq > reported_seq or last_seq >= reported_seq + $4)
                   and (reported_at is null or reported_at <= $3 or reported_at > $2))
                 or (parked_files > 0 and (stopped_at <= $5 or stopped_at > $2)
                   and (reported_at is null or reported_at <= $5 or reported_at > $2)))
               returning last_seq, last_digest, parked_files > 0 as behind""",
            [
                stream,
                now,
                now - REPORT_EVERY,
                REPORT_IDLE_PACKETS,
                now - REPORT_BEHIND_EVERY,
            ],
        )
        if found:
            row = ReceivedUpToRow(
                stream=stream,
                seq=found[0]["last_seq"],
                digest=found[0]["last_digest"],
                at=now,
                behind=found[0]["behind"],
            )
            await sending.put_rows(reply_stream, TOPIC, [row], now=now)
    return bool(found)


class PeersWord:
    """What the peer reports about `reply_stream`, our stream to it.

    Of other streams it knows nothing: what it says of them is logged and changes nothing. The
    peer's digest is compared with ours: a difference, or a position we have not reached, means
    that one side lost history; it is kept in `peer_trouble`, logged, and confirms nothing.
    """

    def __init__(self, reply_stream: str | None, *, now: datetime) -> None:
        self.about = reply_stream
        self._now = now
        self._heard_in = 0

    async def keep(self, reports: Sequence[Struct], arrival: Arrival) -> None:
        """A gate handler. Words older than one that was heard ahead are passed over."""
        for report in reports:
            if not isinstance(report, ReceivedUpToRow) or arrival.seq < self._heard_in:
                continue
            if report.stream == self.about:
                await _keep(report, self._now)
            else:
                log.error("gate_report_about_foreign_stream", stream=report.stream)

    async def hear_ahead(self, seq: int, report: ReceivedUpToRow) -> None:
        """Use the word in packet `seq`, which waits behind a gap: what we send need not wait, too.

        Only one that agrees with what we sent: whoever names the digest of our packet has seen
        it. What disagrees is judged when its turn comes.
        """
        self._heard_in = seq
        async with in_transaction():
            if await _is_news(report):
                await _keep(report, self._now, is_ahead=True)


async def _is_news(report: ReceivedUpToRow) -> bool:
    found = await Tortoise.get_connection("default").execute_query_dict(
        """select exists (
             select from gate_outgoing_stream s left join gate_upkeep u using (stream)
             where stream = $1 and (s.peer_received_seq < $2
               or (u.peer_seq, u.peer_is_behind) is distinct from ($2, $3))) as found""",
        [report.stream, report.seq, report.behind],
    )
    return bool(found[0]["found"])


async def _keep(report: ReceivedUpToRow, now: datetime, *, is_ahead: bool = False) -> None:
    """Moments are our own: the peer's clock may be wrong."""
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        """update gate_outgoing_stream s
           set peer_received_seq = case when said.trouble = ''
                 then greatest(s.peer_received_seq, $2) else s.peer_received_seq end,
               peer_received_at = $4, peer_trouble = said.trouble
           from (select case
                   when $2 > o.last_seq then 'ahead_of_us'
                   when p.digest <> $3 then 'other_digest'
                   when p.digest is null and $2 > 0 and $5 then 'unknown'
                   else '' end as trouble
                 from gate_outgoing_stream o
                   left join gate_outgoing_packet p on p.stream = o.stream and p.seq = $2
                 where o.stream = $1 for update of o) said
           where s.stream = $1 and (said.trouble = '' or not $5)
           returning s.peer_trouble""",
        [report.stream, report.seq, report.digest, now, is_ahead],
    )
    if is_ahead and not found:
        log.info("gate_word_ahead_waits", stream=report.stream, seq=report.seq)
    elif not found:
        log.error("gate_report_about_unknown_stream", stream=report.stream)
    elif found[0]["peer_trouble"]:
        log.error(
            "gate_peer_disagrees",
            stream=report.stream,
            seq=report.seq,
            trouble=found[0]["peer_trouble"],
        )
    else:
        await _note_position(report, now)


async def _note_position(report: ReceivedUpToRow, now: datetime) -> None:
    await Tortoise.get_connection("default").execute_query(
        """insert into gate_upkeep as u
             (stream, peer_seq, peer_since, peer_is_behind, resent_from, resend_pause_seconds,
              proof_is_due, paused_reason, log_is_complete)
           values ($1, $2, $3, $4, 0, 0, false, '', true)
           on conflict (stream) do update set
             peer_since = case when u.peer_seq = $2 then coalesce(u.peer_since, $3) else $3 end,
             peer_seq = $2, peer_is_behind = $4""",
        [report.stream, report.seq, now, report.behind],
    )
