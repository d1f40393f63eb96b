"""What people do to the peers of the gate: add, suspend, exchange keys. Each leaves its trace.

Programs look at the table every few seconds, so nothing here needs a restart.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import orjson
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError

from estation.outside.gate import keys, refused, symbols
from estation.outside.gate.errors import (
    KeyNotAcceptable,
    LastKey,
    PeerNotAcceptable,
    PeerTaken,
    PeerUnknown,
    ReasonMissing,
    RowNotSetAside,
    SymbolsNotPossible,
)
from estation.outside.gate.peers import OURS, THEIRS, Destination, Peer, peer_named, peers
from estation.outside.gate.symbols import REPAIR_PERCENT
from estation.settings import Gate
from estation.shared import ids
from estation.shared.places import collide, places
from estation.shared.transactions import in_transaction

OVERLAP = timedelta(days=7)
"""After a key of ours is replaced the former one counts so long on the other side: packets on
their way, and those written again, still carry its seal."""
NOTICE = timedelta(hours=24)
"""So long a new key of ours is known before it seals: time to hand it to the other side."""
MOST_REASON = 500
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}", re.ASCII)
_REGION = re.compile(r"[0-9]{2,6}", re.ASCII)

Secret = Callable[[str], bytes]
"""A secret's bytes by its name (settings.secret)."""


_PUT_NEW_KEY = """
insert into gate_key (id, peer, owner, key_id, public_pem, file, valid_from, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_PUT_KEY = _PUT_NEW_KEY + "on conflict (peer, owner, key_id) do nothing"


@dataclass(frozen=True, slots=True)
class Deed:
    """Who does it and why: written beside what was done."""

    by: str
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip() or len(self.reason) > MOST_REASON or not self.by.strip():
            raise ReasonMissing(field="reason")


@dataclass(frozen=True, slots=True)
class NewPeer:
    """A further source: streams and folder follow from its name unless given."""

    name: str
    title: str
    sources: Sequence[str]
    regions: Sequence[str]
    public_pem: bytes
    folder: Path
    late_after_seconds: int = 600


def ends(gate: Gate) -> tuple[str, str]:
    """(the peer's name, our name) as the settings' two streams, `a-b` and `b-a`, tell them."""
    parts = gate.stream_in.split("-")
    for at in range(1, len(parts)):
        peer, here = "-".join(parts[:at]), "-".join(parts[at:])
        if gate.stream_out == f"{here}-{peer}":
            return peer, here
    raise ValueError(f"streams of one peer: {gate.stream_in!r} and {gate.stream_out!r}")


async def keep_first_peer(
    gate: Gate, *, title: str, sources: Sequence[str], secret: Secret, now: datetime
) -> None:
    """Write the peer that the settings name, at every start: where they say other folders,
    streams or regions than the table, they are newer.

    A key they name that the table does not know yet is added; one that was retired stays so.
    Raises PeerTaken when their folder of symbols collides with one that a peer works with.
    """
    name, _ = ends(gate)
    if gate.symbols_folder is not None:
        # A folder for symbols that the table has of this peer gives way to that of the settings.
        await _require_free(name, [gate.symbols_folder], cut_otherwise=name)
    async with in_transaction() as tx:
        await tx.execute_query(
            """insert into gate_peer (name, title, folder, stream_in, stream_out, regions,
                                      late_after_seconds, state, trouble, created_at, changed_at)
               values ($1, $2, $3, $4, $5, $6::jsonb, $7, 'active', '', $8, $8)
               on conflict (name) do update set title = excluded.title, folder = excluded.folder,
                 stream_in = excluded.stream_in, stream_out = excluded.stream_out,
                 regions = excluded.regions, late_after_seconds = excluded.late_after_seconds,
                 changed_at = excluded.changed_at
               where (gate_peer.title, gate_peer.folder, gate_peer.stream_in,
                      gate_peer.stream_out, gate_peer.regions, gate_peer.late_after_seconds)
                 is distinct from (excluded.title, excluded.folder, excluded.stream_in,
                      excluded.stream_out, excluded.regions, excluded.late_after_seconds)""",
            [
                name,
                title,
                str(gate.folder),
                gate.stream_in,
                gate.stream_out,
                _json(gate.regions),
                gate.late_after_seconds,
                now,
            ],
        )
        await tx.execute_query(
            """insert into gate_peer_source (source, peer) select source, $1
               from unnest($2::text[]) as given (source) on conflict do nothing""",
            [name, list(sources)],
        )
        ours = keys.public_half(secret(gate.signing_key_file))
        await _put_key(tx, name, OURS, ours, file=gate.signing_key_file, now=now)
        await _put_key(tx, name, THEIRS, secret(gate.peer_public_key_file), now=now)


async def add_source(
    new: NewPeer,
    *,
    here: str,
    signing_key_file: str,
    secret: Secret,
    deed: Deed,
    now: datetime,
    settings_symbols: Path | None = None,
) -> Peer:
    """A further peer with its key; programs serve it within seconds. Makes its folders.

    `here`: our name in its streams. Raises PeerNotAcceptable, KeyNotAcceptable, PeerTaken; then
    nothing is changed.
    """
    _require_well_formed(new)
    folder = new.folder.resolve()
    await _require_free(new.name, places(folder), settings_symbols)
    try:
        async with in_transaction() as tx:
            await tx.execute_query(
                """insert into gate_peer (name, title, folder, stream_in, stream_out, regions,
                                          late_after_seconds, state, trouble, created_at,
                                          changed_at)
                   values ($1, $2, $3, $4, $5, $6::jsonb, $7, 'active', '', $8, $8)""",
                [
                    new.name,
                    new.title or new.name,
                    str(folder),
                    f"{new.name}-{here}",
                    f"{here}-{new.name}",
                    _json(new.regions),
                    new.late_after_seconds,
                    now,
                ],
            )
            await tx.execute_query(
                """insert into gate_peer_source (source, peer)
                   select source, $1 from unnest($2::text[]) as given (source)""",
                [new.name, list(new.sources)],
            )
            public = keys.public_half(secret(signing_key_file))
            await _put_key(tx, new.name, OURS, public, file=signing_key_file, now=now)
            await _put_key(tx, new.name, THEIRS, new.public_pem, now=now, taken_is_refused=True)
            await _write_down(tx, new.name, "add_source", "", deed, now)
    except IntegrityError:
        raise PeerTaken(peer=new.name) from None
    for place in places(folder):
        place.mkdir(parents=True, exist_ok=True)
    return await peer_named(new.name)


async def set_state(name: str, state: str, *, deed: Deed, now: datetime) -> None:
    """active or suspended. A suspended peer is neither packed for nor received from; its rows
    and files wait. Raises PeerUnknown."""
    async with in_transaction() as tx:
        changed = await tx.execute_query_dict(
            "update gate_peer set state = $2, changed_at = $3 where name = $1 returning name",
            [name, state, now],
        )
        if not changed:
            raise PeerUnknown(peer=name)
        await _write_down(tx, name, f"set_{state}", "", deed, now)


async def add_key(
    name: str, public_pem: bytes, *, valid_from: datetime, deed: Deed, now: datetime
) -> str:
    """The peer's new public key, beside those it has; its id. Raises KeyNotAcceptable, PeerTaken,
    PeerUnknown."""
    await peer_named(name)
    try:
        async with in_transaction() as tx:
            key_id = await _put_key(
                tx, name, THEIRS, public_pem, valid_from=valid_from, now=now, taken_is_refused=True
            )
            await _write_down(tx, name, "add_key", key_id, deed, now)
    except IntegrityError:
        raise PeerTaken(peer=name) from None
    return key_id


async def retire_key(
    name: str, key_id: str, *, valid_until: datetime, deed: Deed, now: datetime
) -> None:
    """A key stops counting at `valid_until`; whatever it sealed is a bad seal from then on.

    Raises PeerUnknown when the peer has no such key, LastKey when no other valid one is left.
    """
    peer = await peer_named(name)
    found = next((key for key in peer.keys if key.key_id == key_id), None)
    if found is None:
        raise PeerUnknown(peer=name, key=key_id)
    others = (key for key in peer.keys if key.owner == found.owner and key.key_id != key_id)
    if not any(key.state(max(now, valid_until)) == "valid" for key in others):
        raise LastKey(peer=name, key=key_id)
    async with in_transaction() as tx:
        await tx.execute_query(
            """update gate_key set valid_until = greatest($4::timestamptz, valid_from)
               where peer = $1 and owner = $2 and key_id = $3""",
            [name, found.owner, key_id, valid_until],
        )
        await _write_down(tx, name, "retire_key", key_id, deed, now)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Our new key for a peer: hand over `public_file`; it seals from `valid_from` on."""

    key_id: str
    public_file: Path
    valid_from: datetime


async def rotate_key(
    name: str,
    *,
    secrets_dir: Path,
    valid_from: datetime,
    deed: Deed,
    now: datetime,
    overlap: timedelta = OVERLAP,
    algorithm: keys.Algorithm = "ed25519",
) -> Rotation:
    """Make a new key of ours for this peer, if need be of another algorithm. The former ones
    seal until it begins, and end `overlap` after that. Raises PeerUnknown, and KeyNotAcceptable
    for SM2 where it is not installed."""
    peer = await peer_named(name)
    try:
        private_pem, public_pem = keys.make_key(algorithm)
    except ValueError:
        raise KeyNotAcceptable(field="algorithm") from None
    key_id = keys.load_peer_key(public_pem).key_id
    file = f"gate/{name}_{key_id}_key.pem"
    public_file = secrets_dir / "gate" / f"{name}_{key_id}_public.pem"
    public_file.parent.mkdir(parents=True, exist_ok=True)
    _write_secret(secrets_dir / file, private_pem)
    public_file.write_bytes(public_pem)
    former = [key.key_id for key in peer.keys if key.owner == OURS]
    async with in_transaction() as tx:
        await _put_key(tx, name, OURS, public_pem, file=file, valid_from=valid_from, now=now)
        await tx.execute_query(
            """update gate_key set valid_until = least(coalesce(valid_until, $3), $3)
               where peer = $1 and owner = 'ours' and key_id = any($2::text[])""",
            [name, former, max(now, valid_from) + overlap],
        )
        await _write_down(tx, name, "rotate_key", key_id, deed, now)
    return Rotation(key_id, public_file, valid_from)


async def add_destination(
    name: str,
    folder: Path,
    *,
    deed: Deed,
    now: datetime,
    from_now_on: bool = True,
    settings_symbols: Path | None = None,
) -> None:
    """Every file for this peer goes to one more folder, the packets made so far only when asked.

    Raises PeerUnknown; PeerNotAcceptable for a relative path; PeerTaken
    when the folder is, lies in, or holds one that a peer works with, however it is spelt,
    linked or mounted.
    """
    peer = await peer_named(name)
    folder = _as_it_is(folder)
    await _require_free(name, [folder], settings_symbols)
    try:
        async with in_transaction() as tx:
            await tx.execute_query(
                """insert into gate_destination (id, stream, folder, written_seq, passed_over,
                                                 failure, created_at)
                   values ($1, $2::varchar, $3, case when $4 then coalesce(
                     (select last_seq from gate_outgoing_stream where stream = $2::varchar),
                     0) else 0 end, 0, '', $5)""",
                [ids.row_id(now), peer.stream_out, str(folder), from_now_on, now],
            )
            await _write_down(tx, name, "add_destination", str(folder)[-128:], deed, now)
    except IntegrityError:
        raise PeerTaken(peer=name) from None


async def remove_destination(name: str, folder: Path, *, deed: Deed, now: datetime) -> None:
    """Raises PeerUnknown when the peer has no such destination."""
    peer = await peer_named(name)
    folder = _destination_of(peer, folder).folder
    async with in_transaction() as tx:
        gone = await tx.execute_query_dict(
            "delete from gate_destination where stream = $1 and folder = $2 returning id",
            [peer.stream_out, str(folder)],
        )
        if not gone:
            raise PeerUnknown(peer=name, folder=str(folder))
        await _write_down(tx, name, "remove_destination", str(folder)[-128:], deed, now)


async def give_up_row(row_id: UUID, *, deed: Deed, now: datetime) -> None:
    """A row that was set aside waits for nothing any more: nobody is told of it again, unless it
    comes in another version. Proofs go on to know the difference it makes.

    Raises RowNotSetAside.
    """
    async with in_transaction() as tx:
        row = await refused.open_row(row_id)
        if row is None:
            raise RowNotSetAside(row=str(row_id))
        await refused.end(row, refused.GIVEN_UP, now)
        named = await tx.execute_query_dict(
            "select name from gate_peer where stream_in = $1", [row.stream]
        )
        peer = named[0]["name"] if named else row.source
        await _write_down(tx, peer, "give_up_row", f"{row.key} {row_id}", deed, now)


async def set_symbols(
    name: str,
    cutting: tuple[Path, int] | None,
    *,
    deed: Deed,
    now: datetime,
    destination: Path | None = None,
    settings_symbols: Path | None = None,
) -> None:
    """Packets for the peer leave as symbols in this folder, with so many percent of them more
    than needed; None: as whole files again. Programs do so within seconds. With `destination`
    those of this further folder do, and nothing else changes.

    Raises PeerUnknown, also for no such destination, SymbolsNotPossible, PeerTaken for a folder
    that is used already; then nothing is changed.
    """
    peer = await peer_named(name)
    further = None if destination is None else _destination_of(peer, destination)
    before = peer.cutting if further is None else further.cutting
    folder, percent = "", REPAIR_PERCENT
    if cutting is not None:
        where, percent = cutting
        if not symbols.is_installed() or not where.is_absolute() or not 0 <= percent <= 400:
            raise SymbolsNotPossible
        where = _as_it_is(where)
        if before is None or where != before.folder:
            await _require_free(name, [where], settings_symbols)
        folder = str(where)
    async with in_transaction() as tx:
        if further is not None:
            await tx.execute_query(
                """update gate_destination set symbols_folder = $3, symbols_repair_percent = $4
                   where stream = $1 and folder = $2""",
                [peer.stream_out, str(further.folder), folder, percent],
            )
        else:
            await tx.execute_query(
                """update gate_peer set symbols_folder = $2, symbols_repair_percent = $3,
                                        changed_at = $4 where name = $1""",
                [name, folder, percent, now],
            )
        await _write_down(tx, name, "set_symbols", folder[-128:], deed, now)


def _destination_of(peer: Peer, folder: Path) -> Destination:
    """However it is spelt. Raises PeerUnknown, PeerNotAcceptable for a relative path."""
    found = {one.folder: one for one in peer.destinations}
    one = found.get(folder) or found.get(_as_it_is(folder))
    if one is None:
        raise PeerUnknown(peer=peer.name, folder=str(folder))
    return one


async def write_down(name: str, what: str, about: str, *, deed: Deed, now: datetime) -> None:
    """The trace of something done elsewhere: a packet released, a stream resumed."""
    async with in_transaction() as tx:
        await _write_down(tx, name, what, about, deed, now)


def _require_well_formed(new: NewPeer) -> None:
    if not _NAME.fullmatch(new.name):
        raise PeerNotAcceptable(field="name")
    if not new.sources or not all(source and len(source) <= 32 for source in new.sources):
        raise PeerNotAcceptable(field="source")
    # Without a region it could write every county's rows: only the settings' own peer may.
    if not new.regions or not all(_REGION.fullmatch(region) for region in new.regions):
        raise PeerNotAcceptable(field="region")
    if new.late_after_seconds <= 0 or not new.folder.is_absolute() or len(new.title) > 64:
        raise PeerNotAcceptable(field="folder" if new.late_after_seconds > 0 else "late_after")


def _as_it_is(folder: Path) -> Path:
    """Without links and `..`. Raises PeerNotAcceptable for a relative path. Blocking."""
    if not folder.is_absolute():
        raise PeerNotAcceptable(field="folder")
    return folder.resolve()


async def _require_free(
    name: str, ours: Sequence[Path], also: Path | None = None, *, cut_otherwise: str = ""
) -> None:
    """None of these folders collides with one that a peer works with, or with `also`: that for
    symbols which the settings name, and the table of peers does not know."""
    taken = [also] if also is not None else []
    for peer in await peers():
        taken += [*places(peer.folder), *(one.folder for one in peer.destinations)]
        if peer.cutting is not None and peer.name != cut_otherwise:
            taken.append(peer.cutting.folder)
        taken += [one.cutting.folder for one in peer.destinations if one.cutting is not None]
    if any(collide(a, b) for a in ours for b in taken):
        raise PeerTaken(peer=name)


async def _put_key(
    tx: BaseDBAsyncClient,
    peer: str,
    owner: str,
    public_pem: bytes,
    *,
    now: datetime,
    file: str = "",
    valid_from: datetime | None = None,
    taken_is_refused: bool = False,
) -> str:
    """Its id. A key the peer has already stays as it is."""
    try:
        key_id = keys.load_peer_key(public_pem).key_id
    except ValueError:
        raise KeyNotAcceptable(field="key") from None
    await tx.execute_query(
        _PUT_NEW_KEY if taken_is_refused else _PUT_KEY,
        [
            ids.row_id(now),
            peer,
            owner,
            key_id,
            public_pem.decode(),
            file,
            valid_from if valid_from is not None else now,
            now,
        ],
    )
    return key_id


async def _write_down(
    tx: BaseDBAsyncClient, peer: str, what: str, about: str, deed: Deed, now: datetime
) -> UUID:
    deed_id = ids.row_id(now)
    await tx.execute_query(
        """insert into gate_deed (id, peer, what, about, by, reason, at)
           values ($1, $2, $3, $4, $5, $6, $7)""",
        [deed_id, peer, what, about, deed.by[:128], deed.reason, now],
    )
    return deed_id


def _json(texts: Sequence[str]) -> str:
    return orjson.dumps(list(texts)).decode()


def _write_secret(path: Path, content: bytes) -> None:
    """Readable by its owner only, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
