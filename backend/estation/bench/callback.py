"""`scripts/bench callback`: bare reply, verify+decrypt, and our full durable path, in one run.

Distinct signed and encrypted notices, real orders in PostgreSQL with synchronous commit on. The
floor is verify+decrypt with nothing stored. One server process each; then ours at half of its own
full load, where the answer's delay is what a channel sees; then ours and the floor with two
workers. At last a reconciliation: what was sent against what the database says.

Beside the rates stands what a notice costs in processor time, in the program, in PostgreSQL and in
the load generator: those three share the machine, and the rate is what is left of it.
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
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from estation import settings as settings_module
from estation.bench import notices, orders
from estation.bench.processors import seconds_used
from estation.bench.server import KINDS
from estation.demo.places import Places, child_environment, make_data_key, make_folders
from estation.local import LocalPostgres
from estation.settings import CONFIG, WechatPayAccount
from estation.shared.clock import system_clock
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest

ROUNDS = 3
WARM_UP = 1000
MEASURED = 5000
A_TURN = WARM_UP + MEASURED
CONNECTIONS = 128
"""Notices in flight. With 64, two processors are idle for a third of the time, and measured is
how fast a sleeping one wakes."""
GOAL = 0.6
GOAL_P99_MS = 200
CALM = 4000
"""Notices of the run at half load."""
START_SECONDS = 120


def run(*, as_json: bool) -> None:
    """Measure, print a table, and with `as_json` one object as the last line."""
    with tempfile.TemporaryDirectory(prefix="estation-bench-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's unprivileged user walks through it
        results, proof = _measure(Path(folder))
    summary = _summary(results, proof)
    _print_table(results, summary)
    Console().print(f"Sent against stored, number by number: {proof.words()}")
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
    if not summary["settled_once"]:
        raise SystemExit(1)


Results = dict[str, list[dict[str, Any]]]
Proof = orders.Reconciliation

TURNS = [(kind, 1) for kind in KINDS] + [("verify", 2), ("full", 2)]
"""Who is measured: the program and its workers."""


def _measure(folder: Path) -> tuple[Results, Proof]:
    account = wechat_account()
    keys = write_secrets(folder, account)
    postgres = LocalPostgres(folder / "pg").start()
    try:
        postgres.create_database("online")
        url = postgres.url("online")
        dsn = asyncpg_dsn(url)
        count = _count()
        asyncio.run(migrate_to_newest(settings_module.database(url), dsn=dsn))
        past = orders.make_history(dsn, last=orders.PAST, account_id=account.account_id)
        asyncio.run(past)
        asyncio.run(orders.make_orders(dsn, count=count, account_id=account.account_id))
        file = folder / "notices"
        signer = notices.Signer(account, keys["platform"], keys["api_v3"], system_clock())
        notices.write_notices(file, signer, count)
        bench = Bench(folder, url, file, postgres)
        results = _rounds(bench)
        results["calm"] = [_at_half_load(bench, results["full x1"])]
        return results, asyncio.run(orders.reconcile(dsn, _sent()))
    finally:
        postgres.stop()


class Program(NamedTuple):
    """A server under measurement."""

    port: int
    process: "subprocess.Popen[bytes]"


class Bench(NamedTuple):
    folder: Path
    url: str
    file: Path
    postgres: LocalPostgres


def _rounds(bench: Bench) -> Results:
    """The programs take turns, so that the machine's moods meet all of them, and each is alone
    in its turn. Ours with one and with two workers settle notices of their own; the others may
    hear the same again."""
    results: Results = {f"{kind} x{workers}": [] for kind, workers in TURNS}
    for number in range(ROUNDS):
        for kind, workers in TURNS:
            start = (number + (ROUNDS if (kind, workers) == ("full", 2) else 0)) * A_TURN
            with _served(bench, kind, workers) as program:
                _load(bench.file, program.port, start, WARM_UP)
                measured = _counted(bench, program, start + WARM_UP, MEASURED)
            results[f"{kind} x{workers}"].append(measured)
    return results


def _at_half_load(bench: Bench, full: list[dict[str, Any]]) -> dict[str, Any]:
    rate = statistics.median(result["per_second"] for result in full) / 2
    start = 2 * ROUNDS * A_TURN
    with _served(bench, "full", 1) as program:
        _load(bench.file, program.port, start, WARM_UP)
        return _counted(bench, program, start + WARM_UP, CALM, rate=rate)


def _counted(
    bench: Bench, program: Program, start: int, count: int, *, rate: float = 0
) -> dict[str, Any]:
    """A load, and what it cost the program and PostgreSQL in processor time."""
    postmaster = bench.postgres.postmaster_pid() or 0
    ours, theirs = seconds_used(program.process.pid), seconds_used(postmaster)
    result = _load(bench.file, program.port, start, count, rate=rate)
    ours, theirs = seconds_used(program.process.pid) - ours, seconds_used(postmaster) - theirs
    result["processor_us"] = {
        "program": round(ours / count * 1e6),
        "postgresql": round(theirs / count * 1e6),
        "load": round(result["processor_us"]),
    }
    return result


def _count() -> int:
    """All orders: rounds of one and of two workers, and the run at half load."""
    return 2 * ROUNDS * A_TURN + WARM_UP + CALM


def _sent() -> dict[str, int]:
    """What every load has sent by now: `_load` ends the run when an answer is not 200. Each number
    goes to a program of ours once, whatever the others hear of it."""
    return {notices.trade_number(n): notices.amount_fen(n) for n in range(_count())}


def _load(file: Path, port: int, start: int, count: int, *, rate: float = 0) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "estation.bench.load", file, port, start, count, CONNECTIONS, rate,
    ]  # fmt: skip
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE, text=True, check=True, timeout=180,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout)
    if result["bad"]:
        raise SystemExit(f"{result['bad']} answers were not 200, first: {result['first_bad']}")
    return result


@contextlib.contextmanager
def _served(bench: Bench, kind: str, workers: int) -> Iterator[Program]:
    """A program, started for its turn: one that waits beside another one's still looks at its
    clocks, its siblings and its jobs."""
    port = _free_port()
    process = _start(kind, workers, port, bench.folder, bench.url)
    try:
        _wait_for(port)
        yield Program(port, process)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _start(kind: str, workers: int, port: int, folder: Path, url: str) -> "subprocess.Popen[bytes]":
    environment = child_environment(
        Places(folder, port, 1, 2), online_db=url, inner_db=url, redis="redis://127.0.0.1:1"
    )
    with (folder / f"{kind}-{workers}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "estation.bench.server", kind, str(workers)],
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


def wechat_account() -> WechatPayAccount:
    local = tomllib.loads((CONFIG / "local.toml").read_text(encoding="utf-8"))
    return WechatPayAccount(**local["online"]["wechat_pay"][0])


def _other_accounts() -> list[dict[str, Any]]:
    """The payees' merchants and the combining one: nobody pays there, but their keys are read."""
    local = tomllib.loads((CONFIG / "local.toml").read_text(encoding="utf-8"))
    return [*local["online"]["wechat_pay"][1:], *local["online"]["wechat_combine"]]


def write_secrets(folder: Path, account: WechatPayAccount) -> dict[str, bytes]:
    """Every secret file the online program reads, made up; the platform's half comes back."""
    places = Places(folder, 1, 2, 3)
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
        "wechat/message_token": b"token",
        "wechat/encoding_aes_key": b"A" * 43,
    }
    for one in _other_accounts():
        files |= {one["private_key_file"]: merchant, one["api_v3_key_file"]: api_v3}
    for name, content in files.items():
        (places.secrets / name).parent.mkdir(parents=True, exist_ok=True)
        (places.secrets / name).write_bytes(content)
    return {"platform": platform, "api_v3": api_v3}


def _summary(results: Results, proof: Proof) -> dict[str, Any]:
    middle = {
        name: statistics.median(result["per_second"] for result in rounds)
        for name, rounds in results.items()
    }
    (calm,) = results["calm"]
    return {
        "name": "callback",
        "ours": middle["full x1"],
        "floor": middle["verify x1"],
        "bare": middle["bare x1"],
        "ratio": round(middle["full x1"] / middle["verify x1"], 3),
        "goal": GOAL,
        "unit": "notices/s",
        "p50_ms": statistics.median(r["p50_ms"] for r in results["full x1"]),
        "p99_ms": statistics.median(r["p99_ms"] for r in results["full x1"]),
        "half_load": {"per_second": calm["per_second"], "p50_ms": calm["p50_ms"],
                      "p99_ms": calm["p99_ms"], "goal_p99_ms": GOAL_P99_MS},
        "two_workers": {"ours": middle["full x2"], "floor": middle["verify x2"],
                        "ratio": round(middle["full x2"] / middle["verify x2"], 3)},
        "processor_us": {name: _processor_us(rounds) for name, rounds in results.items()},
        "connections": CONNECTIONS,
        "settled_once": proof.is_whole,
        "reconciliation": proof.counts(),
    }  # fmt: skip


def _processor_us(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """The middle of each part over the rounds."""
    costs = [result["processor_us"] for result in rounds]
    return {part: statistics.median(cost[part] for cost in costs) for part in costs[0]}


def _print_table(results: Results, summary: dict[str, Any]) -> None:
    words = {
        "bare x1": "bare reply",
        "verify x1": "verify + decrypt, nothing stored (floor)",
        "full x1": "ours: settled, committed, then answered",
        "verify x2": "the floor with two workers",
        "full x2": "ours with two workers",
        "calm": "ours at half of its full load",
    }
    table = Table(
        "", "notices/s", "of the floor", "p50 ms", "p99 ms",
        "processor us a notice:\nprogram / PostgreSQL / load",
    )  # fmt: skip
    for name, rounds in results.items():
        speed = statistics.median(r["per_second"] for r in rounds)
        floor = summary["two_workers"]["floor"] if name.endswith("x2") else summary["floor"]
        table.add_row(
            words[name],
            f"{speed:,.0f}",
            f"{speed / floor:.2f}",
            f"{statistics.median(r['p50_ms'] for r in rounds):.1f}",
            f"{statistics.median(r['p99_ms'] for r in rounds):.1f}",
            " / ".join(f"{us:.0f}" for us in summary["processor_us"][name].values()),
        )
    console = Console()
    console.print(table)
    console.print(
        f"{CONNECTIONS} connections, {ROUNDS} rounds of {MEASURED}; every notice settled exactly "
        f"once, sent against stored: {'yes' if summary['settled_once'] else 'NO'}"
    )
