"""Serves a Sanic program; with several workers, survivors restart a killed one.

Sanic does not restart a worker that was killed with -9: each worker looks at its siblings and
asks the manager for the missing one (measured in DESIGN §9).
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import structlog
from sanic import Sanic

from estation.shared.arriving import PromptHttp

log = structlog.get_logger()

LOOK_SECONDS = 0.5
AFTER_RESTART_SECONDS = 3.0


def serve(factory: Callable[[], Sanic[Any, Any]], *, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM. One worker runs in this very process; several are forked from it, so
    that the factory may be any function and the imported program is in memory once."""
    if workers == 1:
        app = factory()
        app.prepare(
            host=host, port=port, single_process=True, motd=False, access_log=False,
            protocol=PromptHttp,
        )  # fmt: skip
        Sanic.serve_single(primary=app)
        return
    Sanic.start_method = "fork"
    app = _watched(factory())
    app.prepare(
        host=host, port=port, workers=workers, motd=False, access_log=False, protocol=PromptHttp
    )
    Sanic.serve(primary=app)


def _watched(app: Sanic[Any, Any]) -> Sanic[Any, Any]:
    async def begin(app: Sanic[Any, Any]) -> None:
        app.add_task(_look_after_siblings(app), name="siblings")

    app.register_listener(begin, "after_server_start")
    return app


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
