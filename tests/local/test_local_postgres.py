"""The wheel's PostgreSQL under our launcher: shared, and back after kill -9."""

import os
import signal
from pathlib import Path

import pytest

from estation.local import CannotStart, LocalPostgres


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launcher")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    return folder / "pg"


def test_a_second_user_joins_and_the_last_one_stops_it(data: Path) -> None:
    first, second = LocalPostgres(data).start(), LocalPostgres(data).start()
    pid = first.postmaster_pid()

    assert pid is not None
    assert second.postmaster_pid() == pid
    first.stop()
    assert second.psql("select 1") == "1"
    second.stop()
    assert second.postmaster_pid() is None


def test_committed_rows_survive_a_killed_postmaster(data: Path) -> None:
    server = LocalPostgres(data).start()
    server.psql("create table t (n int); insert into t values (42)")
    pid = server.postmaster_pid()
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    server.restart()

    assert server.psql("select n from t") == "42"
    server.stop()


def test_a_mistake_in_sql_is_told_in_postgres_words(data: Path) -> None:
    server = LocalPostgres(data).start()

    with pytest.raises(CannotStart, match="does not exist"):
        server.psql("select * from nowhere")

    server.stop()
