"""A demo that cannot start says why in a sentence and exits with a code; nothing is left behind."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journeys.conftest import ROOT, RunningCity, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def demo(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "estation", "demo", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        online, inner, _ = free_ports(3)

        ended = demo("--data", str(tmp_path), "--ports", f"{online},{inner},{port}")

    assert ended.returncode == 2
    assert f"端口 {port} 已被占用" in ended.stdout


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    ended = demo("--data", str(tmp_path / "file" / "city"))

    assert ended.returncode == 2
    assert "无法写入数据目录" in ended.stdout


def test_ports_that_are_no_numbers_are_explained() -> None:
    ended = demo("--ports", "eight")

    assert ended.returncode == 2
    assert "--ports" in ended.stdout


def test_a_second_city_in_the_same_folder_is_refused(city: RunningCity) -> None:
    ended = demo("--data", str(city.places.data), "--ports", ",".join(map(str, free_ports(3))))

    assert ended.returncode == 2
    assert "已有一个示范城市在运行" in ended.stdout


def test_without_a_package_index_the_install_says_so(tmp_path: Path) -> None:
    """As on a machine without network: an index that answers nothing."""
    for name in ("scripts", "pyproject.toml", "requirements.lock", "requirements-test.lock"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)
        else:
            shutil.copy(source, tmp_path / name)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}

    ended = subprocess.run(
        [str(tmp_path / "scripts" / "setup")],
        env={**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
             "PIP_RETRIES": "0"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert ended.returncode != 0
    assert "依赖安装失败：请检查网络" in ended.stderr
    assert not list((tmp_path / ".venv").glob("installed-*"))
