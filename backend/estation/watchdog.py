"""Serves a Sanic program; with several workers, survivors restart a killed one.

Sanic does not restart a worker that was killed with -9: each worker looks at its siblings and
asks the manager for the missing one (measured in DESIGN §9). And a manager that is told to stop
before all its workers have started waits for them without end, at full speed: ours leaves.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import structlog
from sanic import Sanic
from sanic.worker.manager import WorkerManager

from estation.shared.arriving import PromptHttp

log = structlog.get_logger()

LOOK_SECONDS = 0.5
AFTER_RESTART_SECONDS = 3.0
BACKLOG = 1024
"""Connections that may wait to be accepted. Of more than Sanic's 100 at once (a channel catching up
after an outage, the doors of the hall at nine) the rest would try again after a whole second."""
TO_LEAVE_SECONDS = 5.0
"""For workers told to stop while they start: few have anybody to answer yet."""


def serve(factory: Callable[[], Sanic[Any, Any]], *, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM. One worker runs in this very process; several are forked from it, so
    that the factory may be any function and the imported program is in memory once."""
    if workers == 1:
        app = factory()
        app.prepare(
            host=host, port=port, single_process=True, motd=False, access_log=False,
            protocol=PromptHttp, backlog=BACKLOG,
        )  # fmt: skip
        Sanic.serve_single(primary=app)
        return
    Sanic.start_method = "fork"
    app = _watched(factory())
    app.prepare(
        host=host, port=port, workers=workers, motd=False, access_log=False,
        protocol=PromptHttp, backlog=BACKLOG,
    )  # fmt: skip
    Sanic.serve(primary=app)


def _watched(app: Sanic[Any, Any]) -> Sanic[Any, Any]:
    async def begin(app: Sanic[Any, Any]) -> None:
        app.add_task(_look_after_siblings(app), name="siblings")

    async def ready(app: Sanic[Any, Any]) -> None:
        _stop_also_while_starting(app.manager)

    app.register_listener(ready, "main_process_ready")
    app.register_listener(begin, "after_server_start")
    return app


def _stop_also_while_starting(manager: WorkerManager) -> None:
    """Sanic 25.12's `wait_for_ack` hands the word to stop back to itself for ever; it ends when
    this says that all workers have acknowledged, and the next to read the word stops."""
    have_started = manager._all_workers_ack

    def is_over() -> bool:
        if not manager._shutting_down:
            return bool(have_started())  # type: ignore[no-untyped-call]
        _end_workers(manager)
        return True

    manager._all_workers_ack = is_over  # type: ignore[method-assign]


def _end_workers(manager: WorkerManager) -> None:
    """Told once more (one may have been born after the word), and killed when they do not hear."""
    manager.shutdown()  # type: ignore[no-untyped-call]
    until = time.monotonic() + TO_LEAVE_SECONDS
    while any(one.is_alive() for one in manager.processes) and time.monotonic() < until:
        time.sleep(0.05)
    for one in manager.processes:
        if one.is_alive() and one.pid:
            log.warning("worker_killed_while_starting", pid=one.pid)
            os.kill(one.pid, signal.SIGKILL)


async def _look_after_siblings(app: Sanic[Any, Any]) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for name, info in dict(app.m.workers).items():
            pid = info.get("pid")
            if pid and not _is_alive(pid):
                log.error("worker_vanished", worker=name, pid=pid)
                app.m.restart(name)
                await asyncio.sleep(AFTER_RESTART_SECONDS)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
