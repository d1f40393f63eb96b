"""A county joins: one command and one exchange of keys, while the program goes on running."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from estation.demo import places as places_module
from estation.demo.places import Places
from estation.local import LocalPostgres
from estation.outside.gate import format as packets
from estation.outside.gate import keys
from tests.journeys import test_gate_namespaces as programs
from tests.outside.test_gate_other_vendor import EXAMPLE
from tests.outside.tiny_writer import Ed25519Key, Row, Writer

pytestmark = pytest.mark.slow

places = programs.places
COUNTY = "lj-county"
SEED = bytes(range(1, 33))


def bill(number: int, region: str) -> tuple[str, Row]:
    named = {"source": COUNTY, "source_id": f"F{number}", "bill_no": f"JF{number}"}
    return "fee_bill", {**EXAMPLE["fee_bill"], **named, "region": region}


def joins(environment: dict[str, str], public: Path) -> tuple[Path, Path, Path]:
    """The one command; our public key, and the folders for the device, as it says."""
    words = ["add-source", COUNTY, "--region", "360121", "--key", str(public)]
    done = subprocess.run(
        [sys.executable, "-m", "estation", "gate", *words],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    ours, incoming, outgoing = re.findall(r"(?:公钥|送入|取走) (/\S+?)(?:（|\n)", done.stdout)
    return Path(ours), Path(incoming), Path(outgoing)


def test_a_county_joins_by_one_command_while_the_program_runs(
    places: Places, own_database_url: str, postgres: LocalPostgres, tmp_path: Path
) -> None:
    environment = {
        **places_module.child_environment(
            places, online_db=own_database_url, inner_db=postgres.url("unused"),
            redis="redis://127.0.0.1:1/0",
        ),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }  # fmt: skip
    database = urlsplit(own_database_url).path.strip("/")
    public = tmp_path / "county.pem"
    public.write_bytes(
        Ed25519PrivateKey.from_private_bytes(SEED)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    log = places.logs / "online.log"

    def found(sql: str) -> str:
        return postgres.psql(sql, database=database).strip()

    with programs.worker("online", [], environment, log) as worker:
        programs.until(lambda: found("select name from gate_peer") == "jc-center", "no peer", log)
        ours, incoming, outgoing = joins(environment, public)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        county = Writer(incoming, f"{COUNTY}-online", Ed25519Key(SEED), at=at)
        county.write(bill(1, "360121"))
        bills = f"select string_agg(source_id, ',') from bill where source = '{COUNTY}'"
        programs.until(lambda: found(bills) == "F1", "no bill came", log)
        county.write(bill(2, "360102"))
        stopped = (
            f"select stopped_reason from gate_incoming_stream where stream = '{COUNTY}-online'"
        )
        programs.until(lambda: found(stopped) == "bad_row", "another region's row", log)
        programs.until(lambda: any(outgoing.glob("*.gate")), "no answer", log)
        still_running = worker.poll() is None

    answer = min(outgoing.glob("*.gate"))
    head = packets.read_head(answer.read_bytes())
    packets.check_seal(head, keys.load_peer_key(ours.read_bytes()))
    assert still_running
    assert head.manifest.stream == f"online-{COUNTY}"
    assert found(bills) == "F1"
