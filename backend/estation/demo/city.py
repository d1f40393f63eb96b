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

import aiohttp

from estation.demo import places as places_module
from estation.demo.places import COUNTY, COUNTY_REGION, COUNTY_TITLE, Places
from estation.demo.supervisor import Program, Supervisor, keep_alive
from estation.demo.walker import Wallet
from estation.local import CannotStart, LocalPostgres, LocalValkey
from estation.outside.gate import device, keys
from estation.sandbox import credentials
from estation.shared.clock import system_clock
from estation.shared.migrating import asyncpg_dsn

Say = Callable[[str], None]

GATE_SECONDS = 0.1
SIDES = ("online", "inner")
COUNTY_DATABASE = "inner_county"
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

    @property
    def county_dsn(self) -> str:
        return asyncpg_dsn(self.postgres.url(COUNTY_DATABASE))


@asynccontextmanager
async def running_city(
    *,
    data: Path | None,
    ports: tuple[int, int, int],
    fresh: bool,
    say: Say,
    county: bool = False,
    lossy: float = 0.0,
) -> AsyncIterator[City]:
    """Start everything, yield when it is ready to use, and stop everything on leaving.

    `county`: with a second source. `lossy`: what share of the files the gate's device loses,
    doubles, delays and misorders each, once the city is ready.

    Raises CannotStart with a sentence for the person at the keyboard.
    """
    places = places_module.choose(data, ports, county=county)
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
            async with _programs(places, postgres, valkey, say, lossy) as city:
                yield city
        finally:
            valkey.stop()
            await asyncio.to_thread(postgres.stop)


@asynccontextmanager
async def _programs(
    places: Places, postgres: LocalPostgres, valkey: LocalValkey, say: Say, lossy: float
) -> AsyncIterator[City]:
    environment = places_module.child_environment(
        places, online_db=postgres.url("online"), inner_db=postgres.url("inner"), redis=valkey.url
    )
    _make_keys(places)
    _write_environment(places, environment)
    os.environ.update({k: v for k, v in environment.items() if k.startswith("ESTATION_")})
    supervisor = Supervisor(environment=environment, logs=places.logs)
    await _prepare_databases(postgres, supervisor, say)
    county = places_module.county_environment(places, database=postgres.url(COUNTY_DATABASE))
    if places.has_county:
        postgres.create_database(COUNTY_DATABASE)
        await supervisor.run_to_end("seed-county", ["seed", "--side", "inner"], county)
    background: list[asyncio.Task[None]] = []
    try:
        say("启动 沙箱、内网平台、线上平台与后台程序")
        programs = [*_timetable(places), *(_county(places, county) if places.has_county else ())]
        await asyncio.gather(*(supervisor.start(program) for program in programs))
        carrying = asyncio.create_task(_gate_device(places))
        background = [carrying, asyncio.create_task(keep_alive(supervisor, postgres))]
        await _open_official_account(places, supervisor)
        if places.has_county:
            await _add_county(places, postgres, supervisor, say)
        say("等待数据经单向光闸到达线上平台")
        city = City(places, postgres, supervisor, environment)
        await _seed_has_crossed(city)
        if lossy:
            say(f"光闸设备开始丢失、重复、延迟、乱序（各 {lossy:.0%} 的文件）")
            carrying.cancel()
            background.append(asyncio.create_task(_lossy_device(places, lossy)))
        yield city
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await asyncio.to_thread(supervisor.stop)


async def _open_official_account(places: Places, supervisor: Supervisor) -> None:
    """As somebody does once in the account's console: where messages go, and the menu."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
        phone = Wallet(http, places.sandbox_url)
        await phone.control("message_address", url=f"{places.online_url}/wechat/messages")
    await supervisor.run_to_end("wechat-menu", ["wechat-menu"])


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


def _county(places: Places, environment: dict[str, str]) -> list[Program]:
    return [
        Program(
            "county", ["serve", "inner"], f"{places.county_url}/healthz", environment=environment
        ),
        Program("county-worker", ["worker", "--side", "inner"], environment=environment),
    ]


async def _add_county(
    places: Places, postgres: LocalPostgres, supervisor: Supervisor, say: Say
) -> None:
    """As an operator would, while everything runs: one command, one key exchange."""
    known = postgres.psql(
        f"select count(*) from gate_peer where name = '{COUNTY}'",  # noqa: S608
        database="online",
    )
    if int(known):
        return
    say(f"接入{COUNTY_TITLE}：estation gate add-source {COUNTY} --region {COUNTY_REGION}")
    public = places.secrets / "gate" / f"{COUNTY}_public.pem"
    await supervisor.run_to_end(
        "gate-add-source",
        ["gate", "add-source", COUNTY, "--region", COUNTY_REGION, "--title", COUNTY_TITLE,
         "--key", str(public), "--folder", str(places.county_peer)],
    )  # fmt: skip


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
    for side in ("online", "jc-center", *([COUNTY] if places.has_county else [])):
        keys.make_pair(
            private=places.secrets / "gate" / f"{side}_key.pem",
            public=places.secrets / "gate" / f"{side}_public.pem",
        )


def _ways(places: Places) -> list[tuple[Path, Path]]:
    """From and to, for each direction of each inner side."""
    pairs = [(places.inner_gate, places.online_gate)]
    if places.has_county:
        pairs.append((places.county_gate, places.county_peer))
    return [
        (here / "outgoing", there / "incoming")
        for inner, online in pairs
        for here, there in ((inner, online), (online, inner))
    ]


async def _gate_device(places: Places) -> None:
    """The optical gate: one-way movers that know nothing of each other."""
    await asyncio.gather(
        *(device.move_forever(*way, seconds=GATE_SECONDS) for way in _ways(places))
    )


async def _lossy_device(places: Places, share: float) -> None:
    """The same with faults, each way by dice of its own."""
    await asyncio.gather(
        *(
            device.carry_forever(
                device.LossyDevice(seed=seed, faults=device.Faults.all_kinds(share)),
                *way,
                seconds=GATE_SECONDS,
                clock=system_clock,
            )
            for seed, way in enumerate(_ways(places))
        )
    )


async def _seed_has_crossed(city: City) -> None:
    """Until the online side has at least one bill. Raises CannotStart after a minute."""
    deadline = time.monotonic() + SEED_CROSSING_SECONDS
    while time.monotonic() < deadline:
        count = "select count(*) from fee_bill"
        inner = int(city.postgres.psql(count, database="inner"))
        if city.places.has_county:
            inner += int(city.postgres.psql(count, database=COUNTY_DATABASE))
        online = city.postgres.psql("select count(*) from bill", database="online")
        if int(online) >= inner > 0:
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
