"""What `estation gate status` shows can be read at any width."""

from typing import Any

import pytest
from rich.console import Console

from estation import gate_commands

STREAM: dict[str, Any] = {
    "stream": "jc-center-online", "direction": "out", "seq": 1234567,
    "watermark": "2026-03-02T09:00:00+08:00", "lag_seconds": 4.0, "rows_per_minute": 512,
    "unconfirmed_packets": 3, "unconfirmed_bytes": 2**20, "parked_files": 17,
    "quarantined_files": 29, "state": "waiting", "reason": "gap",
    "last_proof_at": "2026-03-02T08:00:00+08:00", "last_proof_equal": False,
    "differing_buckets": 5, "refused_rows": 0, "last_snapshot_at": "2026-03-01T02:00:00+08:00",
    "next_snapshot_at": "2026-03-08T02:00:00+08:00", "last_jump_at": None,
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 240])
def test_every_figure_of_every_stream_is_shown_whole(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = Console(width=width, record=True)
    monkeypatch.setattr(gate_commands, "console", paper)
    streams = [STREAM | {"stream": f"county-{number}-online"} for number in range(5)]

    for table in gate_commands._stream_tables(streams):
        paper.print(table)

    shown = " ".join(paper.export_text().replace("│", " ").split())
    for stream in streams:
        assert stream["stream"] in shown
    for words in ("1234567", "4 s", "512", "3 (1.0 MiB)", "17", "29", "waiting", "gap"):
        assert shown.count(words) >= len(streams), words
    assert "…" not in shown


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"last_proof_equal": False, "refused_rows": 0}, "不一致 5 桶"),
        ({"last_proof_equal": False, "refused_rows": 2}, "不一致 5 桶（含隔离的行）"),
        ({"last_proof_equal": True, "refused_rows": 2}, "除隔离的 2 行外一致"),
    ],
)
def test_the_word_on_the_last_proof_says_what_refused_rows_have_to_do_with_it(
    values: dict[str, Any], words: str
) -> None:
    shown = STREAM | {"known_differences": 1} | values

    assert gate_commands._proof(shown).endswith(" " + words)
