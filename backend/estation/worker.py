"""The background program of the online side: what runs when.

Each job is bounded per call and idempotent; several workers may run, claims and advisory locks
keep them apart. Upward news travels by the table TOPICS (outbox topic -> function).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from tortoise import Tortoise

from estation import settings as settings_module
from estation.cases import packets as case_packets
from estation.fees import packets as fee_packets
from estation.identity.api import forget_expired
from estation.ledger import jobs as ledger_jobs
from estation.official_account.actions import forget_messages as forget_heard
from estation.outside.gate import bounds as limits
from estation.outside.gate import files, peering, peers, rounds, rows, sending, symbols, upkeep
from estation.outside.gate.errors import PeerUnknown
from estation.outside.gate.events import Finding
from estation.outside.gate.peers import Peer
from estation.outside.gate.receiving import ReceiveReport
from estation.payees import LOOK_EVERY_SECONDS, PayeeWatch
from estation.payments import jobs as payment_jobs
from estation.payments import packets as payment_packets
from estation.payments.api import open_incident
from estation.reconciliation.api import tell_of_late
from estation.registry import packets as registry_packets
from estation.services import Services, open_services
from estation.settings import Settings
from estation.shared import outbox
from estation.shared.clock import Clock, system_clock
from estation.shared.collecting import calm_the_collector
from estation.shared.looping import repeat, stop_on_signals
from estation.shared.transactions import in_transaction

log = structlog.get_logger()

OUTBOX_BATCH = 100


@dataclass(frozen=True, slots=True)
class Job:
    """`run` is called again `every_seconds` after it ended; an error never stops the others.
    `finish` waits for what `run` left under way and raises when it failed."""

    name: str
    every_seconds: float
    run: Callable[[datetime], Awaitable[object]]
    finish: Callable[[], Awaitable[None]] | None = None


async def work(settings: Settings, *, clock: Clock = system_clock) -> None:
    """Run every job until SIGTERM or SIGINT, then finish the one at hand."""
    stopping = stop_on_signals()
    rounds.use_enough_threads()
    calm_the_collector()
    await Tortoise.init(
        config=settings_module.database(settings.database_url), _enable_global_fallback=True
    )
    try:
        async with open_services(settings, clock) as services:
            log.info("worker_started")
            timetable = jobs(services)
            await asyncio.gather(
                *(
                    repeat(
                        job.name,
                        job.run,
                        every_seconds=job.every_seconds,
                        clock=clock,
                        stopping=stopping,
                    )
                    for job in timetable
                )
            )
            await asyncio.gather(
                *(job.finish() for job in timetable if job.finish), return_exceptions=True
            )
    finally:
        await Tortoise.close_connections()
        log.info("worker_stopped")


async def work_once(settings: Settings, *, clock: Clock = system_clock) -> dict[str, str]:
    """Run every job of the timetable once, beside a running worker or in place of one that does
    not run; job -> "ok" or the error. One job's trouble does not keep the others from working."""
    fates: dict[str, str] = {}
    async with open_services(settings, clock) as services:
        for job in jobs(services):
            try:
                await job.run(clock())
                if job.finish is not None:
                    await job.finish()
                fates[job.name] = "ok"
            except Exception as failure:
                log.exception("job_failed", job=job.name)
                fates[job.name] = repr(failure)
    return fates


def jobs(services: Services) -> list[Job]:
    """The whole timetable."""
    payees = PayeeWatch(services.settings)
    silent, refunds = payment_jobs.silent_turns(services), payment_jobs.refund_turns(services)
    return [
        Job("payees", LOOK_EVERY_SECONDS, lambda now: asyncio.to_thread(payees.look)),
        Job("outbox", 0.2, lambda now: dispatch_outbox(services, now)),
        *jobs_of_the_gate(GateSide(services)),
        Job("redrive_inbox", 2, lambda now: payment_jobs.redrive_inbox(services, now=now)),
        Job("silent", 2, silent.start, silent.finish),
        Job("refunds", 1, refunds.start, refunds.finish),
        Job("silences", 5, lambda now: payment_jobs.note_silences(services, now=now)),
        Job("sessions", 600, lambda now: forget_expired(now=now)),
        Job("messages", 600, lambda now: payment_jobs.forget_messages(now=now)),
        Job("wechat_messages", 600, lambda now: forget_heard(now=now)),
        Job("ledger_seal", 5, ledger_jobs.seal),
        Job("ledger_publish", 60, lambda now: ledger_jobs.publish(services.settings, now)),
        Job("close_due", 5, lambda now: payment_jobs.close_due_orders(services, now=now)),
        Job("release_holds", 5, lambda now: payment_jobs.release_holds(now=now)),
        Job("expect_forgotten", 60, lambda now: payment_jobs.expect_forgotten(now=now)),
        Job("late_evidence", 60, lambda now: tell_of_late(vault=services.vault, now=now)),
        Job("escalate", 60, lambda now: payment_jobs.escalate_overdue(now=now)),
        Job("gate_stops", 5, lambda now: payment_jobs.end_gate_stops(now=now)),
        # Looks more often than it works: a worker that starts finds the round due or just made.
        Job("invariants", 60, lambda now: payment_jobs.check_invariants(now=now)),
    ]


async def dispatch_outbox(services: Services, now: datetime) -> int:
    """Deliver due messages once each; a failing one waits, the others go on."""
    db = Tortoise.get_connection("default")
    topics = handlers(services)
    messages = await outbox.claim(db, now=now, limit=OUTBOX_BATCH, topics=list(topics))
    for message in messages:
        try:
            async with in_transaction() as tx:
                if await outbox.mark_sent(tx, message["id"], now=now):
                    await topics[message["topic"]](message["body"], now)
        except Exception as failure:
            log.exception("outbox_failed", topic=message["topic"], message_id=str(message["id"]))
            await _set_aside(message, repr(failure), now)
    return len(messages)


async def _set_aside(message: dict[str, Any], error: str, now: datetime) -> None:
    """Later again; a message that will not go is an incident, for nothing else would tell."""
    async with in_transaction() as tx:
        dead = await outbox.mark_failed(
            tx, message["id"], tries=message["tries"], error=error, now=now
        )
        if dead:
            await open_incident(
                kind="message_not_delivered",
                channel="",
                account_id="",
                out_trade_no="",
                distinction=str(message["id"]),
                evidence={"topic": message["topic"], "body": message["body"], "error": error},
                owner="operator",
                now=now,
            )


Handler = Callable[[dict[str, Any], datetime], Awaitable[None]]


def handlers(services: Services) -> dict[str, Handler]:
    """Outbox topic -> what to do; each joins the transaction that marks the message sent."""

    async def receipt(body: dict[str, Any], now: datetime) -> None:
        await _send_to_source(services, "receipt", body, now)

    async def refund(body: dict[str, Any], now: datetime) -> None:
        await _send_to_source(services, "refund", body, now)

    async def bill_changed(body: dict[str, Any], now: datetime) -> None:
        """The centre revised or withdrew a bill that is paid here: a person must look."""
        await open_incident(
            kind="bill_changed_after_payment",
            channel="",
            account_id="",
            out_trade_no="",
            distinction=f"{body['bill_id']}:{body['version']}",
            evidence=body,
            amount_fen=body["total_fen"],
            now=now,
        )

    async def payment_evidence(body: dict[str, Any], now: datetime) -> None:
        await _send_to_source(services, "payment_evidence", body, now)

    return {
        "receipt": receipt,
        "refund": refund,
        "payment_evidence": payment_evidence,
        "bill_changed_after_payment": bill_changed,
    }


async def _send_to_source(
    services: Services, topic: str, body: dict[str, Any], now: datetime
) -> None:
    """Into the stream of the centre that issued the bill, the city's or a county's."""
    row: Any = rows.decode_row(topic, body)
    try:
        stream = await peers.stream_to(row.source)
    except PeerUnknown:
        # Perhaps nothing was received yet since the table of peers exists.
        await _keep_first_peer(services, now)
        stream = await peers.stream_to(row.source)
    await sending.put_rows(stream, topic, [row], now=now)


async def _keep_first_peer(services: Services, now: datetime) -> None:
    settings = services.settings
    name, _ = peering.ends(settings.gate)
    await peering.keep_first_peer(
        settings.gate,
        title=settings.bureau_name,
        sources=[name],
        secret=settings.secret,
        now=now,
    )


class GateSide:
    """This side's end of the gate: for each peer, pack what waits, apply what came, and look
    after what must be said again."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self._services = services
        self._bounds = limits.from_settings(settings.gate)
        self._cutting = symbols.from_settings(settings.gate)
        self._schedule = upkeep.schedule_of(
            snapshot_hours=settings.gate.snapshot_hours, prove_minutes=settings.gate.prove_minutes
        )
        self._payees: set[str] = set()
        self._handlers = {
            **registry_packets.make_handlers(services.vault),
            "case": case_packets.make_handler(services.vault),
            "case_event": case_packets.make_event_handler(services.vault),
            "fee_bill": fee_packets.make_handler(services.vault, payees=self._payees),
            "refund_order": payment_packets.make_handler(services.clock, services.vault.seal),
        }

    async def prepare(self, now: datetime) -> None:
        """The peer that the settings name is in the table."""
        await _keep_first_peer(self._services, now)

    async def pack(self, peer: Peer, now: datetime) -> list[int]:
        return await rounds.pack_for(
            peer,
            secret=self._services.settings.secret,
            max_rows=self._services.settings.gate.pack_max_rows,
            now=now,
            bounds=self._bounds,
            cutting=self._cutting,
            alarm=open_gate_incident,
        )

    async def receive(self, peer: Peer, now: datetime) -> ReceiveReport:
        # New ones come while we run; a packet refused for one is judged again when it comes again.
        self._payees.update(payee.code for payee in self._services.settings.payees)
        return await rounds.receive_from(
            peer,
            handlers=self._handlers,
            now=now,
            alarm=open_gate_incident,
            seal=self._services.vault.seal,
            unseal=self._services.vault.open,
            bounds=self._bounds,
        )

    async def look_after(self, peer: Peer, now: datetime) -> list[int]:
        return await rounds.look_after(
            peer,
            schedule=self._schedule,
            bounds=self._bounds,
            now=now,
            cutting=self._cutting,
        )

    async def look_after_files(self, now: datetime) -> None:
        """Of topics that carry some."""
        await files.look_after_all(
            self._handlers, alarm=open_gate_incident, now=now, unseal=self._services.vault.open
        )


def jobs_of_the_gate(side: GateSide) -> list[Job]:
    """One round of the gate at a time for each peer."""
    gate = rounds.Rounds(
        prepare=side.prepare, pack=side.pack, receive=side.receive, look_after=side.look_after
    )
    return [
        Job("gate_out", 0.3, gate.pack, gate.finish),
        Job("gate_in", 0.3, gate.receive, gate.finish),
        Job("gate_upkeep", 2, gate.look_after, gate.finish),
        Job("gate_files", 2, side.look_after_files),
    ]


async def open_gate_incident(finding: Finding, now: datetime) -> None:
    """A copy that was not what its source sent: somebody changed it, or something was lost."""
    await open_incident(
        kind=f"gate_{finding.kind}",
        channel="",
        account_id="",
        out_trade_no="",
        distinction=finding.distinction,
        evidence={
            "stream": finding.stream,
            "seq": finding.seq,
            "topic": finding.topic,
            "source": finding.source,
            "rows": finding.count,
            "keys": finding.named,
            **finding.detail,
        },
        owner="operator",
        now=now,
    )
