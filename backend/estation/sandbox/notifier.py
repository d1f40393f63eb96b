"""Delivers notices to merchants on each channel's true retry schedule over the virtual clock.

One task, at most 16 deliveries at a time; the table is the queue, so a restart loses nothing.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import aiohttp
import structlog

from estation.sandbox.clocks import TwoClocks, to_ms
from estation.sandbox.faults import Fault, Faults
from estation.sandbox.store import Row, Store

log = structlog.get_logger()

AT_ONCE = 16
ANSWER_SECONDS = 5.0
REPLY_BYTES = 4096
MAX_COPIES = 64
PUT_OFF_SECONDS = 25 * 3600
_IDLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One delivery, byte for byte."""

    headers: dict[str, str]
    body: bytes


class NoticeStyle(Protocol):
    """How one channel writes notices, reads answers and tries again."""

    @property
    def gaps(self) -> tuple[int, ...]:
        """Seconds between delivery n and n+1, counted on the virtual clock."""
        ...

    def compose(self, notice: Row, fault: Fault | None) -> Outgoing: ...

    def is_accepted(self, status: int, reply: bytes) -> bool: ...


class Notifier:
    def __init__(
        self,
        store: Store,
        clocks: TwoClocks,
        faults: Faults,
        styles: Mapping[str, NoticeStyle],
        before_round: Callable[[], None],
    ) -> None:
        """`before_round` lets time-driven events of the world happen first."""
        self._store = store
        self._clocks = clocks
        self._faults = faults
        self._styles = styles
        self._before_round = before_round
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            connector=aiohttp.TCPConnector(limit=4 * AT_ONCE),
        )
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Deliveries under way are given up; their notices stay due."""
        tasks = [task for task in (self._loop, *self._busy.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def put(
        self,
        *,
        channel: str,
        account: str,
        event: str,
        out_trade_no: str,
        url: str,
        plaintext: dict[str, Any],
    ) -> str | None:
        """Queue news for a merchant, due at once; joins the caller's transaction.

        `account` is the mchid or app_id that is told, whose keys seal or sign it.

        Without a url nobody asked to be told, and None is returned.
        """
        if not url:
            return None
        now = to_ms(self._clocks.now())
        notice_id = str(uuid4())
        self._store.insert(
            "notice",
            id=notice_id,
            channel=channel,
            account=account,
            event=event,
            out_trade_no=out_trade_no,
            url=url,
            plaintext=json.dumps(plaintext, ensure_ascii=False),
            created_at=now,
            next_due_at=now,
            state="waiting",
        )
        self._wake.set()
        return notice_id

    def wake(self) -> None:
        """Look at the clock again: somebody moved it."""
        self._wake.set()

    async def deliver_now(self, notice_id: str, *, copies: int = 1) -> list[str]:
        """Send outside the schedule, whatever the state; returns the outcomes.

        Counts neither as a try nor against ordered faults.
        """
        notice = self._store.row("select * from notice where id = ?", notice_id)
        if notice is None:
            return []
        return await self._send_copies(notice, None, min(copies, MAX_COPIES))

    async def settle_first_try(self, notice_id: str) -> None:
        """Wait until the scheduler has made the first try of this notice, or put it off."""
        for _ in range(int(2 * ANSWER_SECONDS / 0.02)):
            notice = self._store.row(
                "select tries, next_due_at > created_at as put_off from notice where id = ?",
                notice_id,
            )
            if notice is None or notice["tries"] > 0 or notice["put_off"]:
                return
            await asyncio.sleep(0.02)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                self._before_round()
                self._start_due()
            except Exception:
                log.exception("sandbox_notice_round_failed")
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets a wake-up.
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._wake.wait()

    def _start_due(self) -> None:
        due = self._store.rows(
            "select * from notice where state = 'waiting' and next_due_at <= ?"
            " order by next_due_at limit ?",
            to_ms(self._clocks.now()),
            2 * AT_ONCE,
        )
        for notice in due:
            if len(self._busy) >= AT_ONCE:
                return
            if notice["id"] not in self._busy:
                task = asyncio.create_task(self._try(notice))
                self._busy[notice["id"]] = task

    async def _try(self, notice: Row) -> None:
        try:
            fault = self._take_fault(notice)
            if fault is not None and fault.kind in {"delay", "reorder"}:
                self._put_off(notice, fault)
                return
            if fault is not None and fault.kind == "hold":
                self._record(notice, fault, None, b"", "held", 0)
                outcomes = ["held"]
            else:
                copies = 1
                if fault is not None and fault.kind == "duplicate":
                    copies += min(int(fault.options.get("copies", 1)), MAX_COPIES)
                outcomes = await self._send_copies(notice, fault, copies)
            self._reschedule(notice, accepted="accepted" in outcomes)
            self._let_go_of_held_back(notice)
        except Exception:
            log.exception("sandbox_notice_failed", notice_id=notice["id"])
            self._reschedule(notice, accepted=False)
        finally:
            self._busy.pop(notice["id"], None)
            self._wake.set()

    def _take_fault(self, notice: Row) -> Fault | None:
        """A notice that was put off goes out in good weather."""
        if notice["tries"] == 0 and notice["next_due_at"] > notice["created_at"]:
            return None
        event = f"{notice['event']} {notice['out_trade_no']} {notice['account']}"
        return self._faults.take("notice", notice["channel"], event)

    def _put_off(self, notice: Row, fault: Fault) -> None:
        """The schedule starts later; no try is counted."""
        held_back = fault.kind == "reorder"
        seconds = PUT_OFF_SECONDS if held_back else min(fault.seconds(60), PUT_OFF_SECONDS)
        self._record(notice, fault, None, b"", "put_off", 0)
        self._store.run(
            "update notice set next_due_at = next_due_at + ?, held_back = ? where id = ?",
            max(int(seconds * 1000), 1),
            int(held_back),
            notice["id"],
        )

    def _let_go_of_held_back(self, later: Row) -> None:
        """What was held back until a later notice goes out now, after it."""
        self._store.run(
            "update notice set next_due_at = max(created_at + 1, ?), held_back = 0"
            " where held_back = 1 and channel = ?"
            " and rowid < (select rowid from notice where id = ?)",
            to_ms(self._clocks.now()),
            later["channel"],
            later["id"],
        )

    async def _send_copies(self, notice: Row, fault: Fault | None, copies: int) -> list[str]:
        return list(await asyncio.gather(*(self._send(notice, fault) for _ in range(copies))))

    async def _send(self, notice: Row, fault: Fault | None) -> str:
        style = self._styles[notice["channel"]]
        outgoing = style.compose(notice, fault)
        status, reply, started = None, b"", time.monotonic()
        try:
            status, reply = await self._post(notice["url"], outgoing)
            outcome = "accepted" if style.is_accepted(status, reply) else "refused"
        except TimeoutError:
            outcome = "timeout"
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            outcome, reply = "unreachable", type(failure).__name__.encode()
        self._record(
            notice, fault, status, reply, outcome, int((time.monotonic() - started) * 1000)
        )
        return outcome

    async def _post(self, url: str, outgoing: Outgoing) -> tuple[int, bytes]:
        if self._session is None:
            raise OSError("not started")
        async with self._session.post(
            url, data=outgoing.body, headers=outgoing.headers, allow_redirects=False
        ) as answer:
            return answer.status, await answer.content.read(REPLY_BYTES)

    def _record(
        self,
        notice: Row,
        fault: Fault | None,
        status: int | None,
        reply: bytes,
        outcome: str,
        took_ms: int,
    ) -> None:
        self._store.insert(
            "delivery",
            notice_id=notice["id"],
            virtual_at=to_ms(self._clocks.now()),
            real_at=to_ms(self._clocks.real()),
            try_no=notice["tries"] + 1,
            fault=fault.kind if fault else "",
            status=status,
            reply=reply[:500].decode(errors="replace"),
            outcome=outcome,
            took_ms=took_ms,
        )

    def _reschedule(self, notice: Row, *, accepted: bool) -> None:
        """The next try counts from when this one was due, so a moved clock skips no step."""
        gaps = self._styles[notice["channel"]].gaps
        tries = notice["tries"] + 1
        if accepted:
            state, due = "delivered", None
        elif tries > len(gaps):
            state, due = "given_up", None
        else:
            state, due = "waiting", notice["next_due_at"] + gaps[tries - 1] * 1000
        self._store.run(
            "update notice set tries = ?, state = ?, next_due_at = ? where id = ?",
            tries,
            state,
            due,
            notice["id"],
        )
