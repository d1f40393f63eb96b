"""`scripts/bench callback`: bare reply, verify+decrypt, and our full durable path, in one run.

One server process each, distinct signed and encrypted notices, real orders in PostgreSQL with
synchronous commit on. The floor is verify+decrypt with nothing stored.
"""

import asyncio
import contextlib
import json
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from estation import settings as settings_module
from estation.bench import notices, orders
from estation.bench.server import KINDS
from estation.demo.places import Places, child_environment, make_data_key, make_folders
from estation.local import LocalPostgres
from estation.settings import CONFIG, WechatPayAccount
from estation.shared.clock import system_clock
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest

ROUNDS = 3
WARM_UP = 1000
MEASURED = 5000
CONNECTIONS = 64
GOAL = 0.6
START_SECONDS = 30


def run(*, as_json: bool) -> None:
    """Measure, print a table, and with `as_json` one object as the last line."""
    with tempfile.TemporaryDirectory(prefix="estation-bench-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's unprivileged user walks through it
        results, proof = _measure(Path(folder))
    summary = _summary(results, proof)
    _print_table(results, summary)
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")


Results = dict[str, list[dict[str, Any]]]


def _measure(folder: Path) -> tuple[Results, tuple[int, int, int]]:
    account = _account()
    keys = _write_secrets(folder, account)
    postgres = LocalPostgres(folder / "pg").start()
    try:
        postgres.create_database("online")
        url = postgres.url("online")
        dsn = asyncpg_dsn(url)
        count = ROUNDS * (WARM_UP + MEASURED)
        asyncio.run(migrate_to_newest(settings_module.database(url), dsn=dsn))
        asyncio.run(orders.make_orders(dsn, count=count, account_id=account.account_id))
        file = folder / "notices"
        signer = notices.Signer(account, keys["platform"], keys["api_v3"], system_clock())
        notices.write_notices(file, signer, count)
        with _servers(folder, url) as ports:
            results = _rounds(file, ports)
        return results, asyncio.run(orders.settled(dsn))
    finally:
        postgres.stop()


def _rounds(file: Path, ports: dict[str, int]) -> Results:
    """The kinds take turns, so that the machine's moods meet all of them."""
    results: Results = {kind: [] for kind in KINDS}
    for number in range(ROUNDS):
        start = number * (WARM_UP + MEASURED)
        for kind in KINDS:
            _load(file, ports[kind], start, WARM_UP)
            results[kind].append(_load(file, ports[kind], start + WARM_UP, MEASURED))
    return results


def _load(file: Path, port: int, start: int, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "estation.bench.load", file, port, start, count, CONNECTIONS]
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE, text=True, check=True, timeout=180,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout)
    if result["bad"]:
        raise SystemExit(f"{result['bad']} answers were not 200, first: {result['first_bad']}")
    return result


@contextlib.contextmanager
def _servers(folder: Path, url: str) -> Iterator[dict[str, int]]:
    ports = {kind: _free_port() for kind in KINDS}
    started = [_start(kind, port, folder, url) for kind, port in ports.items()]
    try:
        for port in ports.values():
            _wait_for(port)
        yield ports
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=20)


def _start(kind: str, port: int, folder: Path, url: str) -> "subprocess.Popen[bytes]":
    environment = child_environment(
        Places(folder, port, 1, 2), online_db=url, inner_db=url, redis="redis://127.0.0.1:1"
    )
    with (folder / f"{kind}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "estation.bench.server", kind],
            env=environment,
            stdout=log,
            stderr=log,
        )


def _wait_for(port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit("a server did not start")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _account() -> WechatPayAccount:
    local = tomllib.loads((CONFIG / "local.toml").read_text(encoding="utf-8"))
    return WechatPayAccount(**local["online"]["wechat_pay"][0])


def _other_accounts() -> list[dict[str, Any]]:
    """The payees' merchants and the combining one: nobody pays there, but their keys are read."""
    local = tomllib.loads((CONFIG / "local.toml").read_text(encoding="utf-8"))
    return [*local["online"]["wechat_pay"][1:], *local["online"]["wechat_combine"]]


def _write_secrets(folder: Path, account: WechatPayAccount) -> dict[str, bytes]:
    """Every secret file the online program reads, made up; the platform's half comes back."""
    places = Places(folder, 0, 1, 2)
    make_folders(places)
    make_data_key(places)
    platform, merchant = notices.new_key_pem(), notices.new_key_pem()
    api_v3 = secrets.token_hex(16).encode()
    files = {
        account.private_key_file: merchant,
        account.api_v3_key_file: api_v3,
        **dict.fromkeys(account.public_key_files.values(), notices.public_pem(platform)),
        "alipay/merchant_key.pem": merchant,
        "alipay/alipay_public_key.pem": notices.public_pem(platform),
        "wechat/app_secret": b"secret",
        "wechat/mini_secret": b"secret",
    }
    for one in _other_accounts():
        files |= {one["private_key_file"]: merchant, one["api_v3_key_file"]: api_v3}
    for name, content in files.items():
        (places.secrets / name).parent.mkdir(parents=True, exist_ok=True)
        (places.secrets / name).write_bytes(content)
    return {"platform": platform, "api_v3": api_v3}


def _summary(results: Results, proof: tuple[int, int, int]) -> dict[str, Any]:
    middle = {
        kind: statistics.median(result["per_second"] for result in rounds)
        for kind, rounds in results.items()
    }
    count = ROUNDS * (WARM_UP + MEASURED)
    return {
        "name": "callback",
        "ours": middle["full"],
        "floor": middle["verify"],
        "bare": middle["bare"],
        "ratio": round(middle["full"] / middle["verify"], 3),
        "goal": GOAL,
        "unit": "notices/s",
        "p50_ms": statistics.median(r["p50_ms"] for r in results["full"]),
        "p99_ms": statistics.median(r["p99_ms"] for r in results["full"]),
        "connections": CONNECTIONS,
        "settled_once": proof == (count, count, 0),
    }


def _print_table(results: Results, summary: dict[str, Any]) -> None:
    words = {
        "bare": "bare reply",
        "verify": "verify + decrypt, nothing stored (floor)",
        "full": "ours: settled, committed, then answered",
    }
    table = Table("", "notices/s", "of the floor", "p50 ms", "p99 ms")
    for kind, rounds in results.items():
        speed = statistics.median(r["per_second"] for r in rounds)
        table.add_row(
            words[kind],
            f"{speed:,.0f}",
            f"{speed / summary['floor']:.2f}",
            f"{statistics.median(r['p50_ms'] for r in rounds):.1f}",
            f"{statistics.median(r['p99_ms'] for r in rounds):.1f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{CONNECTIONS} connections, {ROUNDS} rounds of {MEASURED}; "
        f"every notice settled exactly once: {'yes' if summary['settled_once'] else 'NO'}"
    )
