"""`scripts/bench gate`: fee bills from sealed files into merged tables, against COPY and MERGE.

Ours: the real receiver with the real fee handler in a process of its own: read, verify, decode,
judge, seal the payers, merge, one transaction per packet. Floor: the very same rows of person,
bill and bill_item from ready-made binary files by COPY into staging and MERGE into tables of the
same shape; nothing verified, decoded or sealed. Both take turns, part by part. Beside it stands
the ratio to a floor that leaves the payers out.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, cast

import asyncpg
from msgspec import json as msgspec_json
from rich.console import Console
from rich.table import Table
from tortoise import Tortoise

from estation import settings as settings_module
from estation.bench import gate_floor, gate_lag
from estation.bench.bills import SOURCE, STREAM, bills
from estation.bench.callback import wechat_account, write_secrets
from estation.demo.places import Places, child_environment, make_ledger_key
from estation.inner import database as inner_database
from estation.local import LocalPostgres
from estation.outside.gate import folders, keys, sending
from estation.outside.gate import format as packets
from estation.outside.gate import rows as gate_rows
from estation.shared.clock import system_clock
from estation.shared.migrating import asyncpg_dsn, migrate_to_newest
from estation.shared.transactions import in_transaction

ROWS: Final = 1_000_000
PARTS: Final = 10
PACKET_ROWS: Final = 5000
PACKED_ROWS: Final = 50_000
LAG_ROWS: Final = 120
GOALS: Final = {
    "ratio": 0.6,
    "peak_mb": 300,
    "repeat": 1 / 3,
    "pack_mb_s": 50,
    "lag_p99_s": 3,
}
_ROOM: Final = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}

console = Console()


def run(*, as_json: bool, rows: int = ROWS) -> None:
    """Measure, print a table, and with `as_json` one object as the last line."""
    with tempfile.TemporaryDirectory(prefix="estation-bench-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL's unprivileged user walks through it
        postgres = LocalPostgres(Path(folder) / "pg", settings=_ROOM).start()
        try:
            summary = _measure(postgres, Path(folder), rows)
        finally:
            postgres.stop(mode="immediate")
    _print(summary)
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")


def _measure(postgres: LocalPostgres, folder: Path, rows: int) -> dict[str, Any]:
    urls = {}
    for side, config in (
        ("online", settings_module.database),
        ("inner", inner_database.database),
    ):
        postgres.create_database(side)
        urls[side] = postgres.url(side)
        inner_database.release_shared_models()
        asyncio.run(migrate_to_newest(config(urls[side]), dsn=asyncpg_dsn(urls[side])))
    places = _places(folder)
    sender = _Sender(places.inner_gate, key_file=places.secrets / "gate" / "jc-center_key.pem")
    lags = _lags(places, urls)
    packing = asyncio.run(_pack(urls["inner"], sender, min(rows, PACKED_ROWS)))
    parts, snapshot = asyncio.run(_import(sender, places, urls["online"], rows))
    return _summary(parts, snapshot, sender, packing, lags)


@dataclass(slots=True)
class _Part:
    """One turn of ours and the floor."""

    rows: int
    ours: float = 0.0
    ours_cpu: float = 0.0
    floor: float = 0.0
    floor_payers: float = 0.0
    repeat: float = 0.0
    peak_mb: float = 0.0


@dataclass(slots=True)
class _Sender:
    """Seals bills into packet files, and adds up what that took."""

    folder: Path
    key_file: Path
    seq: int = 0
    previous: str = packets.NO_PREVIOUS
    bytes: int = 0
    seconds: float = 0.0
    key: keys.SealKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = keys.load_seal_key(self.key_file.read_bytes())

    def seal(self, first: int, last: int, folder: Path) -> None:
        """Packets of PACKET_ROWS bills first..last-1, the next ones of the stream."""
        now = system_clock()
        for start in range(first, last, PACKET_ROWS):
            lines = [
                packets.line("fee_bill", gate_rows.encode_row("fee_bill", bill))
                for bill in bills(start, min(start + PACKET_ROWS, last), now=_MADE)
            ]
            begun = time.perf_counter()
            built = packets.build(
                stream=STREAM,
                seq=self.seq + 1,
                previous=self.previous,
                lines=lines,
                watermark=now,
                created_at=now,
                key=self.key,
            )
            self.seq, self.previous = self.seq + 1, built.digest
            name = packets.file_name(STREAM, self.seq)
            folders.write_atomically(folder, name, [built.manifest, b"\n", built.body])
            self.seconds += time.perf_counter() - begun
            self.bytes += sum(len(line) + 1 for line in lines)


_MADE: Final = datetime.fromisoformat("2026-03-02T09:00:00+08:00")


async def _import(
    sender: _Sender, places: Places, url: str, rows: int
) -> tuple[list[_Part], float]:
    """Each part's turns; and what the first part costs as new packets, as a snapshot sends it,
    of what it cost at first."""
    dsn = asyncpg_dsn(url)
    await gate_floor.make_tables(dsn)
    size = max(-(-rows // PARTS) // PACKET_ROWS * PACKET_ROWS, PACKET_ROWS)
    parts = []
    with _importer(url, places) as ask:
        for first in range(0, rows, size):
            last = min(first + size, rows)
            files = places.data / "files"
            await asyncio.to_thread(sender.seal, first, last, files)
            part = _Part(last - first)
            parts.append(part)
            for turn in ("first", "again"):
                _offer(files, places.online_gate / "incoming")
                answer = await asyncio.to_thread(ask, places.online_gate / "incoming")
                if turn == "first":
                    part.ours, part.ours_cpu = answer["seconds"], answer["cpu_seconds"]
                else:
                    part.repeat = answer["seconds"]
                part.peak_mb = answer["peak_mb"]
            part.floor, part.floor_payers = await gate_floor.copy_and_merge(
                dsn, places.data, f"JF{first:010d}", f"JF{last:010d}"
            )
            _empty(files)
            console.print(
                f"{last:,} bills: ours {part.rows / part.ours:,.0f}/s,"
                f" floor {part.rows / part.floor:,.0f}/s, peak {part.peak_mb:.0f} MB"
            )
        await asyncio.to_thread(sender.seal, 0, parts[0].rows, files)
        _offer(files, places.online_gate / "incoming")
        repeated = await asyncio.to_thread(ask, places.online_gate / "incoming")
    await _require_same(dsn, rows)
    per_row = sum(part.ours for part in parts) / rows
    return parts, repeated["seconds"] / parts[0].rows / per_row


def _offer(files: Path, incoming: Path) -> None:
    """The receiver removes what it has applied: it gets links, the files stay."""
    for file in files.iterdir():
        os.link(file, incoming / file.name)


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


async def _require_same(dsn: str, rows: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetchrow(
            """with ours as (select id, total_fen from bill where source = $1),
                 items as (select i.amount_fen from bill_item i join ours on ours.id = i.bill_id),
                 payers as (select count(distinct payer_id) as n from bill where source = $1)
               select (select count(*) from ours), (select count(*) from floor_bill),
                      (select count(*) from items), (select count(*) from floor_bill_item),
                      (select n from payers), (select count(*) from floor_person),
                      (select sum(amount_fen) from items) = (select sum(total_fen) from ours)""",
            SOURCE,
        )
    finally:
        await connection.close()
    ours, floor, items, floor_items, payers, floor_payers, adds_up = found
    if (ours, floor, items, payers, adds_up) != (rows, rows, floor_items, floor_payers, True):
        raise SystemExit(f"the tables are not what was sent: {tuple(found)}")


@contextlib.contextmanager
def _importer(url: str, places: Places) -> Iterator[Any]:
    public = places.secrets / "gate" / "jc-center_public.pem"
    data_key = places.secrets / "data.key"
    command = [sys.executable, "-m", "estation.bench.gate_import", url, str(public), str(data_key)]
    with (places.logs / "import.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    to_it, from_it = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

    def ask(incoming: Path) -> dict[str, Any]:
        to_it.write(f"{incoming}\n")
        to_it.flush()
        line = from_it.readline()
        if not line:
            raise SystemExit((places.logs / "import.log").read_text()[-2000:])
        answer: dict[str, Any] = json.loads(line)
        return answer

    try:
        yield ask
    finally:
        process.communicate(timeout=60)


async def _pack(url: str, sender: _Sender, rows: int) -> float:
    """Megabytes of rows a second from waiting rows in the database to files in the folder."""
    inner_database.release_shared_models()
    await Tortoise.init(config=inner_database.database(url), _enable_global_fallback=True)
    size = 0
    try:
        for start in range(0, rows, PACKET_ROWS):
            some = list(bills(start, min(start + PACKET_ROWS, rows), now=_MADE))
            size += sum(len(msgspec_json.encode(bill)) for bill in some)
            async with in_transaction():
                await sending.put_rows(STREAM, "fee_bill", some, now=system_clock())
        folder = sender.folder / "packed"
        begun = time.perf_counter()
        while await sending.pack_waiting(
            STREAM, folder=folder, key=sender.key, max_rows=PACKET_ROWS, now=system_clock()
        ):
            pass
        return size / 1e6 / (time.perf_counter() - begun)
    finally:
        await Tortoise.close_connections()


def _lags(places: Places, urls: dict[str, str]) -> list[float]:
    environment = child_environment(
        places, online_db=urls["online"], inner_db=urls["inner"], redis="redis://127.0.0.1:1"
    )
    with gate_lag.workers(places, environment):
        return asyncio.run(
            gate_lag.measure(
                places, inner_url=urls["inner"], online_url=urls["online"], rows=LAG_ROWS
            )
        )


def _places(folder: Path) -> Places:
    places = Places(folder, 1, 2, 3)
    write_secrets(folder, wechat_account())
    make_ledger_key(places)
    for side in ("online", "jc-center"):
        keys.make_pair(
            private=places.secrets / "gate" / f"{side}_key.pem",
            public=places.secrets / "gate" / f"{side}_public.pem",
        )
    return places


def _summary(
    parts: Sequence[_Part], snapshot: float, sender: _Sender, packing: float, lags: list[float]
) -> dict[str, Any]:
    rows = sum(part.rows for part in parts)
    ours, floor = sum(part.ours for part in parts), sum(part.floor for part in parts)
    lags = sorted(lags)
    return {
        "name": "gate",
        "ours": round(rows / ours),
        "floor": round(rows / floor),
        "ratio": round(floor / ours, 3),
        "ratio_without_payers": round((floor - sum(part.floor_payers for part in parts)) / ours, 3),
        "goal": GOALS["ratio"],
        "goals": GOALS,
        "unit": "bills/s",
        "rows": rows,
        "ratios_by_part": [round(part.floor / part.ours, 3) for part in parts],
        "ratio_median": round(statistics.median(part.floor / part.ours for part in parts), 3),
        "import_cpu_s": round(sum(part.ours_cpu for part in parts), 1),
        "peak_mb": round(max(part.peak_mb for part in parts), 1),
        "repeat": round(sum(part.repeat for part in parts) / ours, 4),
        "repeat_as_snapshot": round(snapshot, 4),
        "seal_mb_s": round(sender.bytes / 1e6 / sender.seconds, 1),
        "pack_mb_s": round(packing, 1),
        "row_bytes": round(sender.bytes / rows),
        "lag_p50_s": round(lags[len(lags) // 2], 2),
        "lag_p99_s": round(lags[len(lags) * 99 // 100], 2),
    }


def _print(summary: dict[str, Any]) -> None:
    table = Table("", "measured", "goal")
    table.add_row("files to merged tables, bills/s", f"{summary['ours']:,}", "")
    table.add_row("COPY + MERGE of the same rows, bills/s", f"{summary['floor']:,}", "")
    table.add_row("of the floor", f"{summary['ratio']:.2f}", f"≥ {GOALS['ratio']}")
    table.add_row("of a floor that keeps no payers", f"{summary['ratio_without_payers']:.2f}", "")
    table.add_row("peak memory, MB", f"{summary['peak_mb']:.0f}", f"≤ {GOALS['peak_mb']}")
    table.add_row("the same files again, of the first time", f"{summary['repeat']:.3f}", "≤ 1/3")
    table.add_row(
        "the same rows in new packets, of the first time",
        f"{summary['repeat_as_snapshot']:.3f}",
        "",
    )
    table.add_row("sealing and writing, MB/s of rows", f"{summary['seal_mb_s']:.0f}", "")
    table.add_row(
        "waiting rows to files, MB/s of rows",
        f"{summary['pack_mb_s']:.0f}",
        f"≥ {GOALS['pack_mb_s']}",
    )
    table.add_row(
        "commit inside to seen online, p99 s",
        f"{summary['lag_p99_s']:.2f} (p50 {summary['lag_p50_s']:.2f})",
        f"≤ {GOALS['lag_p99_s']}",
    )
    console.print(table)
    console.print(f"{summary['rows']:,} bills of {summary['row_bytes']} bytes on average")
