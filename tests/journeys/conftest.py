"""A whole running city, started as a newcomer would start it, for tests that walk through it."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from estation.demo.places import Places
from estation.demo.walker import Citizen, Wallet
from estation.local import LocalPostgres

ROOT = Path(__file__).resolve().parents[2]
READY = "示范城市已就绪"


@dataclass(frozen=True, slots=True)
class RunningCity:
    """Addresses, processes and databases of the city under test."""

    places: Places
    process: "subprocess.Popen[bytes]"
    postgres: LocalPostgres

    def pid(self, program: str) -> int:
        return int((self.places.logs / f"{program}.pid").read_text())

    def kill(self, program: str) -> None:
        os.kill(self.pid(program), signal.SIGKILL)

    def online(self, sql: str) -> str:
        return self.postgres.psql(sql, database="online")

    def inner(self, sql: str) -> str:
        return self.postgres.psql(sql, database="inner")

    def estation(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `estation …` with this city's settings."""
        return subprocess.run(
            [sys.executable, "-m", "estation", *arguments],
            env=self.environment(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        lines = (self.places.data / "environment").read_text().splitlines()
        words = [shlex.split(line)[1] for line in lines]
        from_file = dict(word.split("=", 1) for word in words)
        return {**os.environ, **from_file}


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCity]:
    data = tmp_path_factory.mktemp("city")
    for parent in (data, data.parent, data.parent.parent):
        parent.chmod(0o755)
    with started_city(data) as running:
        yield running


@contextlib.contextmanager
def started_city(data: Path) -> Iterator[RunningCity]:
    """`estation demo` on free ports; ended by SIGINT, as Ctrl-C does."""
    ports = free_ports(3)
    with (data.parent / f"{data.name}.out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "estation", "demo", "--data", str(data),
             "--ports", ",".join(map(str, ports))],
            stdout=out, stderr=subprocess.STDOUT, cwd=ROOT,
        )  # fmt: skip
        try:
            _wait_ready(process, data.parent / f"{data.name}.out")
            yield RunningCity(
                Places(data.resolve(), *ports), process, LocalPostgres(data / "postgres")
            )
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def _wait_ready(process: "subprocess.Popen[bytes]", out: Path) -> None:
    deadline = time.monotonic() + 120
    while READY not in out.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the city did not start:\n{out.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


def free_ports(count: int) -> tuple[int, int, int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for made in sockets:
            made.bind(("127.0.0.1", 0))
        first, second, third = (made.getsockname()[1] for made in sockets)
    return first, second, third


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=20)
    ) as session:
        yield session


@pytest.fixture
def wallet(city: RunningCity, http: aiohttp.ClientSession) -> Wallet:
    return Wallet(http, city.places.sandbox_url)


@pytest.fixture
def citizen(city: RunningCity, http: aiohttp.ClientSession) -> Citizen:
    return Citizen(http, city.places.online_url)
