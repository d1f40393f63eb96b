"""Both workers in network namespaces of their own, without a single interface: files are enough."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from estation.demo import places as places_module
from estation.demo.places import Places
from estation.inner.personas import BUYER
from estation.local import LocalPostgres
from estation.outside.gate import device, keys
from estation.outside.gate.rows import FeeBillRow
from estation.sandbox.credentials import export_secrets, write_credentials
from tests.journeys.online_side import REGISTRATION, SOURCE, party

pytestmark = pytest.mark.slow

LISTENING = "0A"
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def unshare() -> list[str]:
    """How to start a program in a network namespace of its own, or why it cannot be done here."""
    command = shutil.which("unshare")
    if command is None:
        pytest.skip("this machine has no `unshare`")
    for options in (["--net"], ["--net", "--map-root-user"]):
        tried = subprocess.run(
            [command, *options, "true"], capture_output=True, text=True, check=False
        )
        if tried.returncode == 0:
            return [command, *options]
    pytest.skip(f"no network namespaces here: {tried.stderr.strip()}")


def bill() -> str:
    row = FeeBillRow(
        source=SOURCE, source_id="ns-1", version=1, region="360101", bill_no="JCns-1",
        case_source_id="case-1", title="登记费", payer=party(BUYER, "buyer"), state="issued",
        issued_at=NOW, due_on=None, total_fen=8000, items=[REGISTRATION],
    )  # fmt: skip
    return msgspec.json.encode(row).decode().replace("'", "''")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path, 1, 2, 3)
    places_module.make_folders(places)
    write_credentials(places.sandbox_data, places.sandbox_url)
    export_secrets(places.sandbox_data, places.secrets)
    places_module.make_data_key(places)
    places_module.make_ledger_key(places)
    for side in ("online", "jc-center"):
        keys.make_pair(
            private=places.secrets / "gate" / f"{side}_key.pem",
            public=places.secrets / "gate" / f"{side}_public.pem",
        )
    return places


@contextlib.contextmanager
def worker(
    side: str, prefix: list[str], environment: dict[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "estation", "worker", "--side", side],
            env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def until(holds: Callable[[], bool], what: str, log: Path) -> None:
    for _ in range(300):
        if holds():
            return
        time.sleep(0.2)
    raise AssertionError(f"{what}: {log.read_text()[-2000:]}")


def listeners(pid: int) -> list[str]:
    """What listens in the namespace of a process, on any address and as any Unix socket."""
    found = []
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        found += [line for line in lines if line.split()[3] == LISTENING]
    for table in ("udp", "udp6"):
        found += Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    lines = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    return found + [line for line in lines if line.split()[3] == "00010000"]


def test_two_sides_without_any_network_exchange_packets_through_folders(
    places: Places, own_database_url: str, postgres: LocalPostgres
) -> None:
    prefix = unshare()
    online = urlsplit(own_database_url).path.strip("/")
    inner = f"inner_of_{online}"
    postgres.create_database(inner)
    environment = {
        **places_module.child_environment(
            places,
            online_db=own_database_url,
            inner_db=postgres.url(inner),
            redis="redis://127.0.0.1:1/0",
        ),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    subprocess.run(
        [sys.executable, "-m", "estation", "migrate", "--side", "inner"],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    postgres.psql(
        "insert into gate_outgoing_row (stream, topic, body, created_at)"
        f" values ('jc-center-online', 'fee_bill', '{bill()}', now())",
        database=inner,
    )
    logs = {side: places.logs / f"{side}.log" for side in ("online", "inner")}
    arrived = "select count(*) from bill where source_id = 'ns-1'"
    confirmed = "select coalesce(max(peer_received_seq), 0) from gate_outgoing_stream"

    def carried(sql: str, database: str) -> bool:
        device.move_once(places.inner_gate / "outgoing", places.online_gate / "incoming")
        device.move_once(places.online_gate / "outgoing", places.inner_gate / "incoming")
        return int(postgres.psql(sql, database=database).strip()) > 0

    with (
        worker("inner", prefix, environment, logs["inner"]) as inside,
        worker("online", prefix, environment, logs["online"]) as outside,
    ):
        until(lambda: carried(arrived, online), "no bill came", logs["online"])
        until(lambda: carried(confirmed, inner), "nothing was confirmed", logs["inner"])
        namespaces = {
            os.readlink(f"/proc/{pid}/ns/net") for pid in (inside.pid, outside.pid, os.getpid())
        }
        interfaces = {
            line.split(":")[0].strip()
            for process in (inside, outside)
            for line in Path(f"/proc/{process.pid}/net/dev").read_text().splitlines()[2:]
        }
        found = {process.pid: listeners(process.pid) for process in (inside, outside)}

    assert len(namespaces) == 3
    assert interfaces <= {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0",
                          "ip_vti0", "ip6_vti0", "ip6gre0"}  # fmt: skip
    assert all(not lines for lines in found.values()), json.dumps(list(found.values()))
