"""One migrated cluster for all worlds: migrating takes longer than many a cohort."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from estation.simulation import running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """At rest; each run begins with a copy of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTATION_ENVIRONMENT", "local")
        with running.migrated() as made:
            yield made
