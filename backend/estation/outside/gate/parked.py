"""What packets say before their turn: those that lie behind a gap, each read once.

They carry the peer's seal, but nobody can yet tell whether they continue what was applied. So
only little is taken from them: where snapshots begin and end, and what the peer received.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estation.outside.gate import folders, rows
from estation.outside.gate import format as packets
from estation.outside.gate.errors import BadPacket
from estation.outside.gate.keys import KeyRing, PeerKey
from estation.outside.gate.rows import ReceivedUpToRow

LOOK_BACK = 200
"""The newest so many parked packets are asked for the peer's word: it comes with the first
content, every 60 packets without any, and every 20 s while the peer waits."""
LOOKS_PER_CALL = 5
"""So many are opened in one call; what was opened once costs nothing more."""
_MAX_LOOKED_AT = 20_000
_MAX_WORDS = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """A sealed packet that lies in `incoming/`; `marks`: (snapshot, phase) in it, in order;
    `words`: its last report about each stream."""

    digest: str
    previous: str
    marks: tuple[tuple[str, str], ...]
    words: tuple[ReceivedUpToRow, ...] = ()


_looked_at: dict[tuple[str, int, int, str, tuple[str, ...]], Seen | None] = {}


def look(path: Path, stream: str, seq: int, peer_key: PeerKey | KeyRing) -> Seen | None:
    """None for what is no packet of the peer's. Blocking."""
    known_as = _known_as(path, stream, peer_key)
    if known_as is None:
        return None
    if known_as not in _looked_at:
        if len(_looked_at) >= _MAX_LOOKED_AT:
            _looked_at.clear()
        _looked_at[known_as] = _read_seen(path, stream, seq, peer_key)
    return _looked_at[known_as]


def read(
    path: Path, stream: str, seq: int, peer_key: PeerKey | KeyRing
) -> tuple[packets.Head, list[packets.Line]]:
    """A sealed packet whole. Raises BadPacket, OSError. Blocking."""
    data = folders.read_bounded(path)
    head = packets.read_head(data)
    packets.check_name(head, stream=stream, seq=seq)
    packets.check_seal(head, peer_key)
    return head, list(packets.read_lines(data, head))


def newest_word(
    folder: Path,
    stream: str,
    found: Mapping[int, str],
    *,
    after: int,
    about: str,
    peer_key: PeerKey | KeyRing,
) -> tuple[int, ReceivedUpToRow] | None:
    """What the peer last said it received of the stream `about`, in which packet beyond position
    `after`. None when it says nothing there, or not in those opened so far. Blocking."""
    newest = sorted((seq for seq in found if seq > after), reverse=True)[:LOOK_BACK]
    opened = 0
    for seq in newest:
        path = folder / found[seq]
        opened += _known_as(path, stream, peer_key) not in _looked_at
        if opened > LOOKS_PER_CALL:
            return None
        seen = look(path, stream, seq, peer_key)
        for word in seen.words if seen else ():
            if word.stream == about:
                return seq, word
    return None


def _known_as(
    path: Path, stream: str, peer_key: PeerKey | KeyRing
) -> tuple[str, int, int, str, tuple[str, ...]] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    ids = peer_key.key_ids if isinstance(peer_key, KeyRing) else (peer_key.key_id,)
    # Not by its mtime and size: copying tools keep those of the file they copied, also when what
    # they copied first was damaged on its way.
    return str(path), info.st_ino, info.st_ctime_ns, stream, ids


def _read_seen(path: Path, stream: str, seq: int, peer_key: PeerKey | KeyRing) -> Seen | None:
    try:
        head, lines = read(path, stream, seq, peer_key)
        marks = tuple((row.snapshot_id, row.phase) for row in _rows_of("snapshot", lines))
        words = {row.stream: row for row in _rows_of("received_up_to", lines)}
    except (OSError, BadPacket, rows.BadRow):
        return None
    return Seen(head.digest, head.manifest.previous, marks, tuple(words.values())[-_MAX_WORDS:])


def _rows_of(topic: str, lines: list[packets.Line]) -> Iterator[Any]:
    return (rows.decode_clean(topic, line.row) for line in lines if line.topic == topic)
