"""The inner side has no incidents: its metrics, its command and its pages say who is needed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tortoise import Tortoise
from typer.testing import CliRunner

from estation import measuring as online_measuring
from estation.cli import main
from estation.inner import measuring, personas, worker
from estation.inner.database import database as inner_config
from estation.outside.gate import attention, keys, sending
from estation.outside.gate import format as packets
from estation.shared.clock import system_clock
from tests.inner.desk import Browser, Desk, query


async def receipt_arrives(desk: Desk, *, damaged: bool = False) -> tuple[Path, bytes]:
    """The sealed packet in `incoming/`, and what it was; with `damaged` one bit is another."""
    gate = desk.settings.gate
    await sending.put_rows(
        gate.stream_in, "receipt", [desk.receipt(await desk.issue())], now=desk.now
    )
    seal = keys.load_seal_key(desk.settings.secret("gate/online_key.pem"))
    incoming = gate.folder / "incoming"
    (seq,) = await sending.pack_waiting(gate.stream_in, folder=incoming, key=seal, now=desk.now)
    file = incoming / packets.file_name(gate.stream_in, seq)
    return file, _flip(file) if damaged else b""


def _flip(file: Path) -> bytes:
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    return good


async def test_a_refused_packet_is_said_until_the_right_one_has_come(desk: Desk) -> None:
    calm = await attention.attention(desk.now)
    file, good = await receipt_arrives(desk, damaged=True)
    await worker.run_once(desk.settings, desk.now)
    stopped = await attention.attention(desk.now)
    await asyncio.to_thread(file.write_bytes, good)
    await worker.run_once(desk.settings, desk.now)

    assert (calm, await attention.attention(desk.now)) == ([], [])
    assert len(stopped) == 1
    assert "online-jc-center 停在第 1 包" in stopped[0]
    assert "（bad_digest）" in stopped[0]


async def test_the_inner_metrics_have_the_names_of_the_online_side(
    desk: Desk, pages: Browser
) -> None:
    await receipt_arrives(desk, damaged=True)
    await worker.run_once(desk.settings, desk.now)

    text = (await pages.get("/metrics")).text

    stream = 'stream="online-jc-center"'
    assert f'estation_gate_stopped{{reason="bad_digest",{stream}}} 1.0' in text
    assert 'estation_gate_findings_open{kind="gate_stopped"} 1.0' in text
    assert "estation_database_up 1.0" in text
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {"estation_gate_position", "estation_gate_proof_equal", "estation_gate_paused"} <= told
    assert told <= online_measuring.exported_names()


async def test_metrics_without_a_database_say_that_and_nothing_old(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(measuring, "read", lost)

    text = (await measuring.exposition(now=desk.now)).decode()

    assert "estation_database_up 0.0" in text
    assert "estation_gate_position" not in text


async def test_every_page_says_that_somebody_is_needed(desk: Desk, pages: Browser) -> None:
    await pages.log_in(personas.STAFF[0])
    before = await pages.get("/cases")
    await receipt_arrives(desk, damaged=True)
    await worker.run_once(desk.settings, desk.now)

    after = await pages.get("/cases")

    assert "光闸需要运维处理" not in before.text
    assert "光闸需要运维处理：online-jc-center 停在第 1 包" in after.text


async def test_the_command_ends_with_1_while_somebody_is_needed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTATION_INNER_DATABASE_URL", desk.settings.database_url)
    monkeypatch.setenv("ESTATION_INNER_SECRETS_DIR", str(desk.settings.secrets_dir))
    monkeypatch.setenv("ESTATION_INNER_GATE", desk.settings.gate.model_dump_json())
    desk.now = system_clock()
    words = ["gate", "status", "--side", "inner"]
    config = inner_config(desk.settings.database_url)

    async def status(*more: str) -> Any:
        await Tortoise.close_connections()
        result = await asyncio.to_thread(CliRunner().invoke, main, [*words, *more])
        await Tortoise.init(config=config, _enable_global_fallback=True)
        return result

    calm = await status()
    await receipt_arrives(desk, damaged=True)
    await worker.run_once(desk.settings, desk.now)
    needed, as_json = await status(), await status("--json")

    assert (calm.exit_code, needed.exit_code, as_json.exit_code) == (0, 1, 1), needed.output
    assert "需要人处理" not in calm.output
    assert "需要人处理 online-jc-center 停在第 1 包" in needed.output
    assert as_json.output.lstrip().startswith("[")


async def test_a_stranger_among_the_receipts_is_said(desk: Desk) -> None:
    await query(
        """insert into gate_phantom (id, stream, topic, source, key, named_at)
           values (gen_random_uuid(), 'online-jc-center', 'receipt', 'jc-center', 'k', now())"""
    )
    await receipt_arrives(desk)
    await worker.run_once(desk.settings, desk.now)

    assert await attention.attention(desk.now) == [
        "online-jc-center：1 行是对方没有的，请与对方核对（phantom）"
    ]
