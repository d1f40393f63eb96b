"""Reads the runbooks in config/runbooks and does what they say, as an operator would."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from estation.cli import main
from estation.local import LocalPostgres
from estation.settings import CONFIG

RUNBOOKS = CONFIG / "runbooks"

_BLOCK = re.compile(r"```(console|sql) (look|remedy|over)\n(.*?)```", re.DOTALL)
_PLACEHOLDER = re.compile(r"<(\w+)>")
_SERVER = "连接库 postgres 执行"


@dataclass(frozen=True)
class Block:
    """One fenced block: what to run, and whether it looks, mends or makes sure."""

    language: str
    purpose: str
    text: str


def blocks_of(runbook: Path) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(runbook.read_text(encoding="utf-8"))]


@dataclass
class Operator:
    """Somebody at the keyboard with the city's settings in the environment.

    `known` fills the placeholders: for each name, the values to run a command with in turn.
    """

    postgres: LocalPostgres
    database: str
    known: dict[str, Callable[[], list[str]]]

    def perform(self, block: Block) -> list[int]:
        """Run the block; the exit code of each command (SQL raises when it fails)."""
        if block.language == "sql":
            self._sql(block.text)
            return [0]
        lines = block.text.strip().splitlines()
        assert all(line.startswith("$ ") for line in lines), block.text
        return [code for line in lines for code in self._command(line[2:])]

    def _sql(self, text: str) -> None:
        database = "postgres" if _SERVER in text else self.database
        if ":'breach'" not in text:
            self.postgres.psql(text, database=database)
            return
        for value in self.known["breach"]():
            self.postgres.psql(f"\\set breach '{value}'\n{text}", database=database)

    def _command(self, line: str) -> list[int]:
        wanted = _PLACEHOLDER.search(line)
        if wanted is None:
            return [self._run(line)]
        values = self.known[wanted[1]]()
        return [code for one in values for code in self._command(line.replace(wanted[0], one))]

    def _run(self, line: str) -> int:
        if not line.startswith("estation "):
            return subprocess.run(["bash", "-ec", line], env=os.environ, check=False).returncode
        result = CliRunner().invoke(main, shlex.split(line)[1:])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        print(result.output)  # noqa: T201  (pytest shows it when the test fails)
        assert result.exit_code != 2, result.output
        return result.exit_code


def breaches_now(name: str) -> list[str]:
    """As `estation invariants NAME --json` lists them."""
    result = CliRunner().invoke(main, ["invariants", name, "--json"])
    rows: list[str] = json.loads(result.output)[name]["rows"]
    return rows
