"""A sandbox in this process on a free port, for every test that needs the outside world."""

import asyncio
import atexit
import functools
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from estation.sandbox.app import create_sandbox
from estation.sandbox.credentials import make_keys, write_credentials
from estation.shared.clock import Clock, system_clock


@dataclass(frozen=True)
class RunningSandbox:
    """A sandbox that listens at `base_url`; `credentials` is what write_credentials says.

    It runs on the test's own loop: call blocking SDKs through `asyncio.to_thread`.
    """

    base_url: str
    credentials: dict[str, Any]
    data: Path
    http: aiohttp.ClientSession

    async def control(self, verb: str, **body: Any) -> dict[str, Any]:
        """POST /control/<verb>. Raises AssertionError with the sandbox's words when refused."""
        async with self.http.post(f"{self.base_url}/control/{verb}", json=body) as answer:
            told: dict[str, Any] = await answer.json()
            assert answer.status == 200, told
            return told

    async def look(self, what: str, **query: str) -> dict[str, Any]:
        """GET /control/<what>."""
        async with self.http.get(f"{self.base_url}/control/{what}", params=query) as answer:
            told: dict[str, Any] = await answer.json()
            assert answer.status == 200, told
            return told

    async def pay(self, code: str, persona: str | None = None, **more: Any) -> dict[str, Any]:
        return await self.control("pay", code=code, persona=persona, **more)

    async def advance(self, seconds: float) -> None:
        await self.control("clock", advance_seconds=seconds)

    async def fault(self, kind: str, **more: Any) -> None:
        """target (notice), channel (wechat_pay), count (1) and the fault's own options."""
        await self.control("faults", kind=kind, **more)

    async def notices(self, out_trade_no: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.look("notices", out_trade_no=out_trade_no))[
            "notices"
        ]
        return found

    async def deliveries(self, out_trade_no: str, *, at_least: int) -> list[dict[str, Any]]:
        """Wait (≤ 10 s real time) until so many deliveries of this order have been made."""

        async def enough() -> list[dict[str, Any]] | None:
            made = [
                delivery
                for notice in await self.notices(out_trade_no)
                for delivery in notice["deliveries"]
            ]
            return made if len(made) >= at_least else None

        return await eventually(enough)


async def eventually(look: Callable[[], Awaitable[Any]], *, seconds: float = 10.0) -> Any:
    """The first answer of `look` that is not None. Raises AssertionError after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        found = await look()
        if found is not None:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"nothing within {seconds} s")


@asynccontextmanager
async def running_sandbox(
    folder: Path, *, clock: Clock = system_clock
) -> AsyncIterator[RunningSandbox]:
    """Starts a sandbox on an ephemeral port with its data in `folder`/sandbox."""
    data = folder / "sandbox"
    if not (data / "keys").exists():
        shutil.copytree(_keys_of_this_run(), data / "keys")
    listening = socket.create_server(("127.0.0.1", 0))
    port = int(listening.getsockname()[1])
    base_url = f"http://127.0.0.1:{port}"
    app = create_sandbox(data=data, port=port, clock=clock)
    server = await app.create_server(sock=listening, return_asyncio_server=True)
    assert server is not None
    await server.startup()
    await server.before_start()
    await server.after_start()
    await server.start_serving()
    try:
        async with aiohttp.ClientSession() as http:
            yield RunningSandbox(base_url, write_credentials(data, base_url), data, http)
    finally:
        await server.before_stop()
        server.close()
        await server.wait_closed()
        await server.after_stop()


@functools.cache
def _keys_of_this_run() -> Path:
    """Six RSA keys cost seconds; one set serves all tests of a process."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-keys-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_keys(folder)
    return folder / "keys"
