"""Both directions of the gate through the inner side's own program."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from estation.inner import worker
from estation.outside.gate import format as packets
from estation.outside.gate import keys, sending
from estation.settings import ROOT, InnerSettings
from estation.shared.clock import system_clock
from tests.inner.desk import Desk, query

PROGRAM = """
import asyncio
from estation.inner import worker
from estation.settings import InnerSettings
asyncio.run(worker.work(InnerSettings()))
"""


def start(settings: InnerSettings) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "backend"),
        "ESTATION_INNER_DATABASE_URL": settings.database_url,
        "ESTATION_INNER_SECRETS_DIR": str(settings.secrets_dir),
        "ESTATION_INNER_GATE": json.dumps(settings.gate.model_dump(mode="json")),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stderr=subprocess.DEVNULL
    )


def lines_of(folder: Path) -> list[bytes]:
    """All rows of all packets, in order; gaps fail."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    numbers = [packets.parse_name(path.name) for path in files]
    assert [number[1] for number in numbers if number] == list(range(1, len(files) + 1))
    found = []
    for path in files:
        data = path.read_bytes()
        head = packets.read_head(data)
        found.extend(bytes(line.row) for line in packets.read_lines(data, head))
    return found


async def test_a_bill_leaves_and_its_receipt_comes_back(desk: Desk) -> None:
    bill_no = await desk.issue()
    gate = desk.settings.gate

    out = await worker.run_once(desk.settings, desk.now)
    receipt = desk.receipt(bill_no)
    await sending.put_rows(gate.stream_in, "receipt", [receipt], now=desk.now)
    seal = keys.load_seal_key(desk.settings.secret("gate/online_key.pem"))
    await sending.pack_waiting(
        gate.stream_in, folder=gate.folder / "incoming", key=seal, now=desk.now
    )
    back = await worker.run_once(desk.settings, desk.now)

    assert out.packed == [1]
    assert back.received.applied == [1]
    bill = await query("select state, paid_version from fee_bill")
    assert [tuple(row.values()) for row in bill] == [("paid", 1)]
    kept = await query("select packet_seq, attention from fee_receipt")
    assert [tuple(row.values()) for row in kept] == [(1, "")]
    sent = await query("select manifest, body from gate_outgoing_packet order by seq")
    lines = [line for one in sent for line in packets.read_made(one["manifest"], one["body"])]
    reports = [json.loads(bytes(x.row)) for x in lines if x.topic == "received_up_to"]
    assert [report["seq"] for report in reports] == [1]


async def test_a_killed_worker_loses_and_doubles_nothing(desk: Desk) -> None:
    case_no = await desk.open_case()
    for _ in range(3):
        process = start(desk.settings)
        for _ in range(6):
            await desk.issue(case_no)
            await asyncio.sleep(0.15)
        process.kill()
        await asyncio.to_thread(process.wait)

    await worker.run_once(desk.settings, system_clock())  # the killed ones had that clock

    rows = lines_of(desk.settings.gate.folder / "outgoing")
    numbers = [json.loads(row)["bill_no"] for row in rows if b"bill_no" in row]
    assert numbers == [f"JF20261123{serial:04d}" for serial in range(1, 19)]


async def test_the_worker_ends_when_told_to(desk: Desk) -> None:
    process = start(desk.settings)
    outgoing = desk.settings.gate.folder / "outgoing"
    for _ in range(100):
        if any(outgoing.iterdir()):
            break
        await asyncio.sleep(0.1)

    process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(process.wait, 10)

    assert code == 0
    assert len(list(outgoing.iterdir())) >= 1
