"""How long a bill takes from the commit inside until it is seen online, by the real workers."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
from msgspec import structs
from tortoise import Tortoise

from estation.bench.bills import bills
from estation.demo.places import Places
from estation.inner import database as inner_database
from estation.outside.gate import device, sending
from estation.shared.clock import system_clock
from estation.shared.migrating import asyncpg_dsn
from estation.shared.transactions import in_transaction

SOURCE: Final = "jc-center"  # as config/local.toml names the streams
STREAM: Final = f"{SOURCE}-online"
ROWS_PER_SECOND: Final = 2
DEVICE_SECONDS: Final = 0.3
_POLL_SECONDS: Final = 0.02
_LONGEST_SECONDS: Final = 30.0


@contextlib.contextmanager
def workers(places: Places, environment: dict[str, str]) -> Iterator[None]:
    """`estation worker` of both sides, as in production."""
    started = []
    for side in ("inner", "online"):
        with (places.logs / f"{side}.log").open("wb") as log:
            command = [sys.executable, "-m", "estation", "worker", "--side", side]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=20)


async def measure(places: Places, *, inner_url: str, online_url: str, rows: int) -> list[float]:
    """Seconds of each of `rows` bills, ROWS_PER_SECOND of them a second; workers are running."""
    inner_database.release_shared_models()
    await Tortoise.init(config=inner_database.database(inner_url), _enable_global_fallback=True)
    online: Any = await asyncpg.connect(asyncpg_dsn(online_url))
    carrying = [
        asyncio.create_task(device.move_forever(come, go, seconds=DEVICE_SECONDS))
        for come, go in _ways(places)
    ]
    try:
        await _send_and_wait(online, 0)  # the workers have started then
        waits = []
        for number in range(1, rows + 1):
            turn = asyncio.create_task(asyncio.sleep(1 / ROWS_PER_SECOND))
            waits.append(asyncio.create_task(_send_and_wait(online, number)))
            await turn
        return list(await asyncio.gather(*waits))
    finally:
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
        await online.close()
        await Tortoise.close_connections()


def _ways(places: Places) -> tuple[tuple[Path, Path], ...]:
    inner, online = places.inner_gate, places.online_gate
    return (
        (inner / "outgoing", online / "incoming"),
        (online / "outgoing", inner / "incoming"),
    )


_asking = asyncio.Lock()


async def _send_and_wait(online: Any, number: int) -> float:
    now = system_clock()
    (made,) = bills(number * 1000, number * 1000 + 1, now=now)
    async with in_transaction():
        await sending.put_rows(STREAM, "fee_bill", [structs.replace(made, source=SOURCE)], now=now)
    committed = time.perf_counter()
    while True:
        async with _asking:
            seen = await online.fetchval(
                "select exists (select from bill where source = $1 and source_id = $2)",
                SOURCE,
                made.source_id,
            )
        waited = time.perf_counter() - committed
        if seen:
            return waited
        if waited > _LONGEST_SECONDS:
            raise SystemExit(f"a bill did not arrive within {_LONGEST_SECONDS:.0f} s")
        await asyncio.sleep(_POLL_SECONDS)
