"""Who is at the other ends of the gate, and which keys count now; read from the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from tortoise import Tortoise

from estation.outside.gate.errors import PeerUnknown
from estation.outside.gate.keys import KeyRing, load_peer_key
from estation.outside.gate.scope import Scope
from estation.outside.gate.symbols import Cutting

OURS = "ours"
THEIRS = "theirs"


@dataclass(frozen=True, slots=True)
class Key:
    """A row of `gate_key`."""

    owner: str
    key_id: str
    public_pem: str
    file: str
    valid_from: datetime
    valid_until: datetime | None

    def state(self, now: datetime) -> str:
        """valid, retired, or not yet valid."""
        if now < self.valid_from:
            return "not yet valid"
        return "valid" if self.valid_until is None or now < self.valid_until else "retired"


@dataclass(frozen=True, slots=True)
class Destination:
    """A further folder for the files of the outgoing stream, and how it went. `cutting`: how its
    packets leave as symbols; None for whole files."""

    folder: Path
    written_seq: int
    passed_over: int
    failure: str
    failed_at: datetime | None
    cutting: Cutting | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer with all that a round needs."""

    name: str
    title: str
    folder: Path
    stream_in: str
    stream_out: str
    regions: tuple[str, ...]
    late_after: timedelta
    state: str
    trouble: str
    trouble_at: datetime | None
    disk_free: int | None
    sources: tuple[str, ...]
    keys: tuple[Key, ...]
    destinations: tuple[Destination, ...]
    cutting: Cutting | None = None
    """How packets in its own folder leave as symbols; None for whole files. Each further
    destination has its own."""

    @property
    def incoming(self) -> Path:
        return self.folder / "incoming"

    @property
    def outgoing(self) -> Path:
        return self.folder / "outgoing"

    @property
    def scope(self) -> Scope:
        return Scope(self.sources, self.regions)

    def key_ring(self, now: datetime) -> KeyRing:
        """The peer's keys that count at `now`, by our clock: the date in a packet is written by
        whoever sealed it, so it cannot prove that an old key was still good."""
        theirs = [key for key in self.keys if key.owner == THEIRS]
        states = {key.key_id: key.state(now) for key in theirs}
        return KeyRing(
            (load_peer_key(k.public_pem.encode()) for k in theirs if states[k.key_id] == "valid"),
            refused=states,
        )

    def signing_key(self, now: datetime) -> Key:
        """Our newest key for this peer that is valid. Raises PeerUnknown when there is none."""
        ours = [key for key in self.keys if key.owner == OURS and key.state(now) == "valid"]
        if not ours:
            raise PeerUnknown(peer=self.name, field="signing_key")
        return max(ours, key=lambda key: key.valid_from)


async def peers(*, only_active: bool = False) -> list[Peer]:
    """By name."""
    rows = await _rows(
        """select p.*, coalesce(array_agg(s.source order by s.source)
                                  filter (where s.source is not null), '{}') as sources
           from gate_peer p left join gate_peer_source s on s.peer = p.name
           where p.state = 'active' or not $1
           group by p.name order by p.name""",
        only_active,
    )
    keys = _grouped(
        await _rows(
            """select peer, owner, key_id, public_pem, file, valid_from, valid_until
               from gate_key order by peer, valid_from, key_id"""
        ),
        "peer",
    )
    destinations = _grouped(
        await _rows(
            """select stream, folder, written_seq, passed_over, failure, failed_at,
                      symbols_folder, symbols_repair_percent
               from gate_destination order by stream, folder"""
        ),
        "stream",
    )
    return [
        _peer(row, keys.get(row["name"], ()), destinations.get(row["stream_out"], ()))
        for row in rows
    ]


async def peer_named(name: str) -> Peer:
    """Raises PeerUnknown."""
    for peer in await peers():
        if peer.name == name:
            return peer
    raise PeerUnknown(peer=name)


async def stream_to(source: str) -> str:
    """The stream in which rows for this source leave. Raises PeerUnknown.

    Also of a suspended peer: its rows wait until it is resumed.
    """
    found = await _rows(
        """select p.stream_out from gate_peer_source s join gate_peer p on p.name = s.peer
           where s.source = $1""",
        source,
    )
    if not found:
        raise PeerUnknown(source=source)
    return str(found[0]["stream_out"])


def _peer(
    row: Mapping[str, Any], keys: Sequence[dict[str, Any]], destinations: Sequence[dict[str, Any]]
) -> Peer:
    return Peer(
        name=row["name"],
        title=row["title"],
        folder=Path(row["folder"]),
        stream_in=row["stream_in"],
        stream_out=row["stream_out"],
        regions=tuple(_json(row["regions"])),
        late_after=timedelta(seconds=row["late_after_seconds"]),
        state=row["state"],
        trouble=row["trouble"],
        trouble_at=row["trouble_at"],
        disk_free=row["disk_free"],
        sources=tuple(row["sources"]),
        keys=tuple(Key(**key) for key in keys),
        destinations=tuple(map(_destination, destinations)),
        cutting=_cutting(row),
    )


def _destination(row: Mapping[str, Any]) -> Destination:
    return Destination(
        folder=Path(row["folder"]),
        written_seq=row["written_seq"],
        passed_over=row["passed_over"],
        failure=row["failure"],
        failed_at=row["failed_at"],
        cutting=_cutting(row),
    )


def _cutting(row: Mapping[str, Any]) -> Cutting | None:
    if not row["symbols_folder"]:
        return None
    return Cutting(Path(row["folder"]), Path(row["symbols_folder"]), row["symbols_repair_percent"])


def _grouped(rows: Sequence[dict[str, Any]], column: str) -> dict[str, list[dict[str, Any]]]:
    """By the values of a column, which is left out of the groups."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row.pop(column), []).append(row)
    return groups


def _json(value: Any) -> list[str]:
    found: list[str] = orjson.loads(value) if isinstance(value, str | bytes) else value
    return found


async def _rows(sql: str, *values: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return [dict(row) for row in found]
