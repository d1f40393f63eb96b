"""Several workers of one program: both answer, and a killed one comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

PROGRAM = """
import os, sys
from sanic import Sanic
from sanic.response import text
from estation import watchdog

name = sys.argv[2]

def factory():
    app = Sanic(name, configure_logging=False)

    @app.get("/pid")
    async def pid(request):
        return text(str(os.getpid()))

    return app

watchdog.serve(lambda: factory(), host="127.0.0.1", port=int(sys.argv[1]), workers=2)
"""
SLOW_PROGRAM = """
import asyncio, os, sys
from sanic import Sanic
from sanic.response import empty
from estation import watchdog

async def answer(request):
    return empty()

async def slow(app):
    os.write(1, b"starting\\n")  # whole: two write at once
    await asyncio.sleep(120)

def factory():
    app = Sanic("slow", configure_logging=False)
    app.add_route(answer, "/")
    app.register_listener(slow, "before_server_start")
    return app

watchdog.serve(factory, host="127.0.0.1", port=int(sys.argv[1]), workers=2)
"""
PATIENCE_SECONDS = 60


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = int(probe.getsockname()[1])
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(number), "watched"],
        start_new_session=True,
    )
    yield number
    os.killpg(program.pid, signal.SIGKILL)
    program.wait(timeout=30)


def _asked(port: int) -> int | None:
    """Who answers one new connection, or nobody."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/pid", timeout=2) as answer:
            return int(answer.read())
    except OSError:
        return None


def _until_two_answer(port: int, *, without: int | None = None) -> set[int]:
    seen: set[int] = set()
    until = time.monotonic() + PATIENCE_SECONDS
    while len(seen) < 2 and time.monotonic() < until:
        pid = _asked(port)
        if pid is None:
            time.sleep(0.1)
        elif pid != without:
            seen.add(pid)
    return seen


def test_a_factory_that_is_a_closure_is_served_by_two_workers(port: int) -> None:
    assert len(_until_two_answer(port)) == 2


def test_a_killed_worker_is_replaced_by_the_other_one(port: int) -> None:
    first, second = _until_two_answer(port)

    os.kill(first, signal.SIGKILL)

    after = _until_two_answer(port, without=first)
    assert len(after) == 2
    assert second in after


def test_told_to_stop_while_its_workers_start_it_stops() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = int(probe.getsockname()[1])
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_PROGRAM, str(number)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            assert program.stdout is not None
            assert [program.stdout.readline() for _ in "12"] == ["starting\n"] * 2
            program.send_signal(signal.SIGTERM)

            assert program.wait(timeout=30) == 0
            with pytest.raises(ProcessLookupError):
                os.killpg(program.pid, 0)  # nobody of it is left
        finally:
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)
