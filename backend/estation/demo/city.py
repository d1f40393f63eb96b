"""A running city: servers, databases, keys, seed, programs; and what to tell the person."""

import asyncio
import fcntl
import os
import shlex
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from estation.demo import places as places_module
from estation.demo.places import Places
from estation.demo.supervisor import Program, Supervisor, keep_alive
from estation.local import CannotStart, LocalPostgres, LocalValkey
from estation.outside.gate import device, keys
from estation.sandbox import credentials
from estation.shared.migrating import asyncpg_dsn

Say = Callable[[str], None]

GATE_SECONDS = 0.1
SIDES = ("online", "inner")
SEED_CROSSING_SECONDS = 60


@dataclass(frozen=True, slots=True)
class City:
    """What runs, for those who want to use it or break it."""

    places: Places
    postgres: LocalPostgres
    supervisor: Supervisor
    environment: dict[str, str]

    @property
    def online_dsn(self) -> str:
        return asyncpg_dsn(self.postgres.url("online"))

    @property
    def inner_dsn(self) -> str:
        return asyncpg_dsn(self.postgres.url("inner"))


@asynccontextmanager
async def running_city(
    *, data: Path | None, ports: tuple[int, int, int], fresh: bool, say: Say
) -> AsyncIterator[City]:
    """Start everything, yield when it is ready to use, and stop everything on leaving.

    Raises CannotStart with a sentence for the person at the keyboard.
    """
    places = places_module.choose(data, ports)
    with _only_one(places):
        places_module.require_free_ports(places)
        if fresh:
            say("清空旧数据")
            _empty(places)
        places_module.make_folders(places)
        say("启动 PostgreSQL 与 Valkey")
        postgres = LocalPostgres(places.data / "postgres", settings={"max_connections": "200"})
        valkey = LocalValkey(places.data / "valkey")
        await asyncio.to_thread(postgres.start)
        try:
            await asyncio.to_thread(valkey.start)
            async with _programs(places, postgres, valkey, say) as city:
                yield city
        finally:
            valkey.stop()
            await asyncio.to_thread(postgres.stop)


@asynccontextmanager
async def _programs(
    places: Places, postgres: LocalPostgres, valkey: LocalValkey, say: Say
) -> AsyncIterator[City]:
    environment = places_module.child_environment(
        places, online_db=postgres.url("online"), inner_db=postgres.url("inner"), redis=valkey.url
    )
    _make_keys(places)
    _write_environment(places, environment)
    os.environ.update({k: v for k, v in environment.items() if k.startswith("ESTATION_")})
    supervisor = Supervisor(environment=environment, logs=places.logs)
    await _prepare_databases(postgres, supervisor, say)
    background: list[asyncio.Task[None]] = []
    try:
        say("启动 沙箱、内网平台、线上平台与后台程序")
        await asyncio.gather(*(supervisor.start(program) for program in _timetable(places)))
        background = [
            asyncio.create_task(_gate_device(places)),
            asyncio.create_task(keep_alive(supervisor, postgres)),
        ]
        say("等待数据经单向光闸到达线上平台")
        city = City(places, postgres, supervisor, environment)
        await _seed_has_crossed(city)
        yield city
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await asyncio.to_thread(supervisor.stop)


def _timetable(places: Places) -> list[Program]:
    data = str(places.sandbox_data)
    return [
        Program(
            "sandbox",
            ["serve", "sandbox", "--data", data, "--port", str(places.sandbox_port)],
            f"{places.sandbox_url}/healthz",
        ),
        Program("inner", ["serve", "inner"], f"{places.inner_url}/healthz"),
        Program("online", ["serve", "online"], f"{places.online_url}/healthz"),
        Program("inner-worker", ["worker", "--side", "inner"]),
        Program("worker", ["worker", "--side", "online"]),
    ]


async def _prepare_databases(postgres: LocalPostgres, supervisor: Supervisor, say: Say) -> None:
    """Each side in a process of its own: in one process only one of them knows its tables."""
    postgres.create_database("online")
    postgres.create_database("inner")
    say("建立并升级两侧数据库，播种示范城市（第二次启动时沿用已有数据）")
    await asyncio.gather(
        *(supervisor.run_to_end(f"seed-{side}", ["seed", "--side", side]) for side in SIDES)
    )


def _make_keys(places: Places) -> None:
    credentials.write_credentials(places.sandbox_data, places.sandbox_url)
    credentials.export_secrets(places.sandbox_data, places.secrets)
    places_module.make_data_key(places)
    places_module.make_ledger_key(places)
    for side in ("online", "jc-center"):
        keys.make_pair(
            private=places.secrets / "gate" / f"{side}_key.pem",
            public=places.secrets / "gate" / f"{side}_public.pem",
        )


async def _gate_device(places: Places) -> None:
    """The optical gate: two one-way movers that know nothing of each other."""
    await asyncio.gather(
        device.move_forever(
            places.inner_gate / "outgoing", places.online_gate / "incoming", seconds=GATE_SECONDS
        ),
        device.move_forever(
            places.online_gate / "outgoing", places.inner_gate / "incoming", seconds=GATE_SECONDS
        ),
    )


async def _seed_has_crossed(city: City) -> None:
    """Until the online side has at least one bill. Raises CannotStart after a minute."""
    deadline = time.monotonic() + SEED_CROSSING_SECONDS
    while time.monotonic() < deadline:
        inner = city.postgres.psql("select count(*) from fee_bill", database="inner")
        online = city.postgres.psql("select count(*) from bill", database="online")
        if int(online) >= int(inner) > 0:
            return
        await asyncio.sleep(0.2)
    raise CannotStart("一分钟内缴费单没有经光闸到达线上平台，请看 logs 目录中的 worker.log。")


@contextmanager
def _only_one(places: Places) -> Iterator[None]:
    """One demo per data folder; the kernel drops the lock with the process."""
    with (places.data / "demo.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                "这个数据目录已有一个示范城市在运行，请先结束它，或用 --data 另选目录。"
            ) from None
        yield


def _write_environment(places: Places, environment: dict[str, str]) -> None:
    """For `estation …` in another terminal: no secrets in it, only where things are."""
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in environment.items()
        if name.startswith("ESTATION_")
    ]
    (places.data / "environment").write_text("\n".join(lines) + "\n")


def _empty(places: Places) -> None:
    LocalPostgres(places.data / "postgres").end_orphans()
    for entry in places.data.iterdir():
        if entry.name == "demo.lock":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
