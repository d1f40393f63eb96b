"""`scripts/demo`: show progress, print addresses and personas, wait for Ctrl-C."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console

from estation.demo.city import City, running_city
from estation.demo.once import play_once
from estation.demo.seeding import STAFF
from estation.demo.walker import ChainBroken
from estation.inner import personas
from estation.local import CannotStart
from estation.shared import logs

ROLE_NAMES = {
    "finance_clerk": "财务经办",
    "finance_checker": "财务复核",
    "operator": "平台运维",
}

console = Console(stderr=False, highlight=False)


def run(
    *,
    once: bool,
    fresh: bool,
    data: Path | None,
    ports: str,
    county: bool = False,
    lossy: float = 0.0,
) -> int:
    """The exit code: 0 all went well, 1 the chain broke, 2 the city could not start."""
    logs.configure(as_json=False)
    try:
        numbers = _three_ports(ports)
        return asyncio.run(
            _run(once=once, fresh=fresh, data=data, ports=numbers, county=county, lossy=lossy)
        )
    except CannotStart as failure:
        console.print(f"[red]无法启动：[/]{failure}")
        return 2
    except ChainBroken as failure:
        console.print(f"[red]主链中断：[/]{failure}")
        return 1


async def _run(
    *,
    once: bool,
    fresh: bool,
    data: Path | None,
    ports: tuple[int, int, int],
    county: bool,
    lossy: float,
) -> int:
    began = time.monotonic()

    def say(step: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.1f} s[/]  {step}", soft_wrap=True)

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stopping.set)
    async with running_city(
        data=data, ports=ports, fresh=fresh, say=say, county=county, lossy=lossy
    ) as city:
        say("示范城市已就绪")
        if once:
            await _until_stopped(play_once(city, say), stopping)
        else:
            _introduce(city)
            await stopping.wait()
            console.print("正在停止……")
    return 130 if once and stopping.is_set() else 0


async def _until_stopped(work: Coroutine[Any, Any, None], stopping: asyncio.Event) -> None:
    task = asyncio.create_task(work)
    waiter = asyncio.create_task(stopping.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if not task.done():
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _introduce(city: City) -> None:
    """Lines, not a table: nothing may be cut off on a narrow terminal."""
    places = city.places
    console.print("\n[bold]打开这些地址[/]")
    for address, what in (
        (places.online_url, "市民：不动产 e 站（H5）"),
        (f"{places.online_url}/staff", "财务与运维工作台"),
        (places.inner_url, "内网平台收费台"),
        *([(places.county_url, "临江县内网平台收费台")] if places.has_county else []),
        (f"{places.online_url}/staff/gate", "光闸：各数据流的位置、滞后与隔离"),
        (places.sandbox_url, "沙箱钱包：扫码、支付、取消"),
        (f"{places.sandbox_url}/sms", "沙箱短信：登录验证码"),
    ):
        console.print(f"  {address:<32} {what}", soft_wrap=True)
    console.print("\n[bold]市民（验证码见沙箱短信页）[/]")
    for person in (personas.BUYER, personas.SELLER):
        console.print(
            f"  {person.name}  手机 {person.phone}  证件号码后六位 {person.id_no[-6:]}"
            f"  {person.title}",
            soft_wrap=True,
        )
    console.print("\n[bold]工作人员（账号 / 密码）[/]")
    for staff in personas.STAFF:
        console.print(f"  内网平台  {staff.login} / {staff.password}  {staff.name}，{staff.title}")
    for login, name, role, password in STAFF:
        console.print(f"  工作台    {login} / {password}  {name}，{ROLE_NAMES[role]}")
    console.print("\n按 Ctrl-C 结束。再次运行会沿用数据；--fresh 重新开始。")
    sys.stdout.flush()


def _three_ports(text: str) -> tuple[int, int, int]:
    try:
        online, inner, sandbox = (int(part) for part in text.split(","))
    except ValueError:
        raise CannotStart("--ports 需要三个端口号，例如 18000,18100,18200。") from None
    return online, inner, sandbox
