"""Starts the city's programs, keeps them alive, and leaves nothing behind."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from estation.local import CannotStart, LocalPostgres

READY_SECONDS = 60
RESTARTS_PER_MINUTE = 10
PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Program:
    """One child: `estation <arguments>`; `ready_url` answers 200 when it can work.
    `environment` is added to what all of them get."""

    name: str
    arguments: list[str]
    ready_url: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=RESTARTS_PER_MINUTE))


class Supervisor:
    """Children die with us even at kill -9 (PDEATHSIG); a child that dies is started again."""

    def __init__(self, *, environment: dict[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._programs: list[Program] = []

    async def start(self, program: Program) -> None:
        """Start and wait until ready. Raises CannotStart with the end of its log."""
        self._programs.append(program)
        self._launch(program)
        await self.wait_ready(program)

    async def run_to_end(
        self, name: str, arguments: list[str], environment: dict[str, str] | None = None
    ) -> None:
        """Run a program that ends by itself. Raises CannotStart with the end of its log."""
        program = Program(name, arguments, environment=environment or {})
        self._launch(program)
        if program.process is not None and await asyncio.to_thread(program.process.wait) != 0:
            raise CannotStart(f"{name} 失败，日志：{self._log(program)}\n{self._tail(program)}")

    async def wait_ready(self, program: Program) -> None:
        if program.ready_url is None:
            return
        deadline = time.monotonic() + READY_SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while time.monotonic() < deadline:
                if program.process is not None and program.process.poll() is not None:
                    break
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(program.ready_url) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.05)
        raise CannotStart(
            f"{program.name} 未能启动，日志：{self._log(program)}\n{self._tail(program)}"
        )

    def revive_dead(self) -> list[str]:
        """Start again what died; the names. Raises CannotStart when one keeps dying."""
        revived = []
        for program in self._programs:
            if program.process is None or program.process.poll() is None:
                continue
            now = time.monotonic()
            if len(program.restarts) == RESTARTS_PER_MINUTE and now - program.restarts[0] < 60:
                raise CannotStart(
                    f"{program.name} 反复退出，日志：{self._log(program)}\n{self._tail(program)}"
                )
            program.restarts.append(now)
            self._launch(program)
            revived.append(program.name)
        return revived

    def stop(self) -> None:
        """End all children, last started first: ten seconds of grace, then kill."""
        for program in reversed(self._programs):
            if program.process is not None and program.process.poll() is None:
                program.process.terminate()
        deadline = time.monotonic() + 10
        for program in reversed(self._programs):
            if program.process is None:
                continue
            try:
                program.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.process.kill()
                program.process.wait()
        self._programs.clear()

    def _launch(self, program: Program) -> None:
        with self._log(program).open("ab") as log:
            program.process = subprocess.Popen(
                [sys.executable, "-m", "estation", *program.arguments],
                env={**self._environment, **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only us; we end the children in order.
                # Between fork and exec only one system call is made, so threads do no harm.
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        # For people and tests who want to kill one.
        self._log(program).with_suffix(".pid").write_text(str(program.process.pid))

    def _log(self, program: Program) -> Path:
        return self._logs / f"{program.name}.log"

    def _tail(self, program: Program) -> str:
        return self._log(program).read_text(errors="replace")[-1500:]


async def keep_alive(supervisor: Supervisor, postgres: LocalPostgres) -> None:
    """Watch for ever: a dead child or a dead PostgreSQL comes back within a second."""
    while True:
        if postgres.postmaster_pid() is None:
            await asyncio.to_thread(postgres.restart)
        supervisor.revive_dead()
        await asyncio.sleep(0.5)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # The parent died before the request was made.
        os._exit(1)
