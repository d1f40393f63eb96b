"""`estation ledger …` as an operator types it."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tortoise import Tortoise

from estation import settings
from estation.demo import places as places_module
from estation.demo.places import Places
from estation.ledger import api, jobs
from estation.settings import Settings
from estation.shared.clock import system_clock
from tests.ledger.making import as_dba, payment


@pytest.fixture
def environment(own_database_url: str, tmp_path: Path) -> dict[str, str]:
    places = Places(tmp_path, 1, 2, 3)
    places_module.make_folders(places)
    places_module.make_ledger_key(places)
    return places_module.child_environment(
        places, online_db=own_database_url, inner_db=own_database_url, redis="unused"
    )


@pytest.fixture
async def two_payments(
    own_database_url: str, environment: dict[str, str]
) -> AsyncIterator[list[str]]:
    """Posted ten minutes ago and not sealed."""
    await Tortoise.init(config=settings.database(own_database_url), _enable_global_fallback=True)
    then = system_clock() - timedelta(minutes=10)
    yield await api.post_many([payment("a", 100), payment("b", 50)], now=then)
    await Tortoise.close_connections()


def estation(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "estation", "ledger", *words],
        env={**environment, "COLUMNS": "200"}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


async def test_sealing_verifying_and_the_head(
    two_payments: list[str], environment: dict[str, str]
) -> None:
    unsealed = estation(environment, "verify", "--json")
    sealed = estation(environment, "seal")
    whole = estation(environment, "verify")
    head = estation(environment, "head", "--json")

    assert unsealed.returncode == 1
    breaks = json.loads(unsealed.stdout)["breaks"]
    assert {(one["what"], one["transfer_id"]) for one in breaks} == {
        ("transfer_not_sealed", one) for one in two_payments
    }
    assert (sealed.returncode, "2 笔" in sealed.stdout) == (0, True)
    assert (whole.returncode, "账本完整" in whole.stdout) == (0, True), whole.stderr
    (book,) = json.loads(head.stdout)
    assert (book["height"], book["transfers"], book["debit_fen"]) == (1, 2, 150)
    assert book["digest"] in whole.stdout
    assert "360101" in estation(environment, "head").stdout


async def test_a_tampered_ledger_is_named_and_ends_with_one(
    two_payments: list[str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.seal(system_clock())
    for name in ("ESTATION_SECRETS_DIR", "ESTATION_PUBLISHED_DIR"):
        monkeypatch.setenv(name, environment[name])
    await jobs.publish(Settings.read(), system_clock())
    assert estation(environment, "verify", "--book", "360101").returncode == 0
    await as_dba(f"update ledger_entry set debit_fen = 1 where transfer_id = '{two_payments[1]}'"
                 " and debit_fen > 0")  # fmt: skip

    found = estation(environment, "verify")
    as_json = estation(environment, "verify", "--json", "--book", "360101")
    other_book = estation(environment, "verify", "--book", "360199")

    assert found.returncode == 1
    assert "transfer_changed" in found.stdout
    assert two_payments[1] in found.stdout
    assert as_json.returncode == 1
    told = json.loads(as_json.stdout)
    assert (told["whole"], told["heads"]) == (False, 1)
    assert told["breaks"][0] == {
        "what": "transfer_changed", "book": "360101", "height": 1,
        "transfer_id": two_payments[1], "detail": "",
    }  # fmt: skip
    assert other_book.returncode == 0
