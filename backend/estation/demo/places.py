"""Where the demo city keeps its things, and on which ports it listens."""

import json
import os
import secrets
import socket
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estation.local import CannotStart, unprivileged_user
from estation.outside.gate import keys
from estation.settings import CONFIG, ROOT
from estation.settings_check import DEMO_MARK

COUNTY, COUNTY_REGION, COUNTY_TITLE = "lj-county", "360121", "临江县不动产登记中心"
"""A second source, with an internal platform of its own (`estation demo --county`)."""
PORTS = (8000, 8100, 8200)
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and addresses of one demo city."""

    data: Path
    online_port: int
    inner_port: int
    sandbox_port: int
    has_county: bool = False

    @property
    def online_url(self) -> str:
        return f"http://{HOST}:{self.online_port}"

    @property
    def inner_url(self) -> str:
        return f"http://{HOST}:{self.inner_port}"

    @property
    def sandbox_url(self) -> str:
        return f"http://{HOST}:{self.sandbox_port}"

    @property
    def secrets(self) -> Path:
        return self.data / "secrets"

    @property
    def sandbox_data(self) -> Path:
        return self.data / "sandbox"

    @property
    def online_gate(self) -> Path:
        return self.data / "gate" / "online"

    @property
    def inner_gate(self) -> Path:
        return self.data / "gate" / "inner"

    @property
    def county_gate(self) -> Path:
        """The county's own side of the gate."""
        return self.data / "gate" / COUNTY

    @property
    def county_peer(self) -> Path:
        """The online side's folder for the county."""
        return self.online_gate / "peers" / COUNTY

    @property
    def county_port(self) -> int:
        return self.inner_port + 1

    @property
    def county_url(self) -> str:
        return f"http://{HOST}:{self.county_port}"

    @property
    def published(self) -> Path:
        return self.data / "published"

    @property
    def logs(self) -> Path:
        return self.data / "logs"


def choose(data: Path | None, ports: tuple[int, int, int], *, county: bool = False) -> Places:
    """Make the folder. Raises CannotStart with a sentence when that is impossible."""
    folder = (data or _default_folder()).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").write_text("")
    except OSError as failure:
        raise CannotStart(
            f"无法写入数据目录 {folder}（{failure.strerror}）。请用 --data 指定一个可写的目录。\n"
            f"Cannot write to the data folder; choose another with --data."
        ) from failure
    return Places(folder, *ports, has_county=county)


def require_free_ports(places: Places) -> None:
    """Raises CannotStart naming the port that somebody else uses."""
    county = (places.county_port,) if places.has_county else ()
    for port in (places.online_port, places.inner_port, places.sandbox_port, *county):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as failure:
                raise CannotStart(
                    f"端口 {port} 已被占用，请先停掉占用它的程序，或用 --ports 换一组端口，"
                    "例如 --ports 18000,18100,18200。\n"
                    f"Port {port} is taken; choose others with --ports."
                ) from failure


def child_environment(
    places: Places, *, online_db: str, inner_db: str, redis: str
) -> dict[str, str]:
    """What config/local.toml leaves open, for the programs we start."""
    local = tomllib.loads((CONFIG / "local.toml").read_text(encoding="utf-8"))
    online = _moved(local["online"], places.sandbox_url)
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "ESTATION_ENVIRONMENT": "local",
        "ESTATION_PUBLIC_URL": places.online_url,
        "ESTATION_HOST": HOST,
        "ESTATION_PORT": str(places.online_port),
        "ESTATION_DATABASE_URL": online_db,
        "ESTATION_REDIS_URL": redis,
        "ESTATION_SECRETS_DIR": str(places.secrets),
        "ESTATION_PUBLISHED_DIR": str(places.published),
        "ESTATION_SMS_URL": online["sms_url"],
        "ESTATION_WECHAT_PAY": json.dumps(online["wechat_pay"]),
        "ESTATION_WECHAT_COMBINE": json.dumps(online["wechat_combine"]),
        "ESTATION_ALIPAY": json.dumps(online["alipay"]),
        "ESTATION_WECHAT": json.dumps(online["wechat"]),
        "ESTATION_GATE": json.dumps({**online["gate"], "folder": str(places.online_gate)}),
        "ESTATION_INNER_HOST": HOST,
        "ESTATION_INNER_PORT": str(places.inner_port),
        "ESTATION_INNER_DATABASE_URL": inner_db,
        "ESTATION_INNER_SECRETS_DIR": str(places.secrets),
        "ESTATION_INNER_ONLINE_URL": places.online_url,
        "ESTATION_INNER_GATE": json.dumps(
            {**local["inner"]["gate"], "folder": str(places.inner_gate)}
        ),
    }


def county_environment(places: Places, *, database: str) -> dict[str, str]:
    """What is different for the county's internal platform."""
    return {
        "ESTATION_INNER_PORT": str(places.county_port),
        "ESTATION_INNER_DATABASE_URL": database,
        "ESTATION_INNER_SOURCE": COUNTY,
        "ESTATION_INNER_REGION": COUNTY_REGION,
        "ESTATION_INNER_BUREAU_NAME": COUNTY_TITLE,
        "ESTATION_INNER_GATE": json.dumps(
            {
                "folder": str(places.county_gate),
                "stream_in": f"online-{COUNTY}",
                "stream_out": f"{COUNTY}-online",
                "signing_key_file": f"gate/{COUNTY}_key.pem",
                "peer_public_key_file": "gate/online_public.pem",
            }
        ),
    }


def make_folders(places: Places) -> None:
    gates = [places.online_gate, places.inner_gate]
    if places.has_county:
        gates += [places.county_gate, places.county_peer]
    for folder in (
        places.secrets, places.sandbox_data, places.logs, places.published,
        *(gate / name for gate in gates for name in ("incoming", "outgoing")),
    ):  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
    places.secrets.chmod(0o700)
    (places.secrets / DEMO_MARK).touch()


def make_data_key(places: Places) -> None:
    """32 random bytes each for personal data at rest and for the codes on bills and receipts,
    made once."""
    for name in ("data.key", "pay_code.key", "receipt.key"):
        file = places.secrets / name
        if not file.exists():
            file.write_bytes(secrets.token_bytes(32))
            file.chmod(0o600)


def make_ledger_key(places: Places) -> None:
    """The pair that signs the books' published heads, made once."""
    keys.make_pair(
        private=places.secrets / "ledger" / "key.pem",
        public=places.secrets / "ledger" / "public.pem",
    )


def _moved(value: Any, sandbox_url: str) -> Any:
    """The same settings with the sandbox's address replaced."""
    text = json.dumps(value).replace("http://127.0.0.1:8200", sandbox_url)
    return json.loads(text)


def _default_folder() -> Path:
    """`.local` in the project, unless PostgreSQL's unprivileged user could not walk to it."""
    wanted = ROOT / ".local"
    if unprivileged_user() is None:
        return wanted
    if all(parent.stat().st_mode & 0o001 for parent in ROOT.parents):
        return wanted
    return Path(tempfile.gettempdir()) / f"estation-city-{ROOT.name}"
