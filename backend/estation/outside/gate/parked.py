"""What packets say before their turn: those that lie behind a gap, each read once.

They carry the peer's seal, but nobody can yet tell whether they continue what was applied. So
only little is taken from them: where snapshots begin and end, and what the peer received.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
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
MAX_LOOKED_AT = folders.MAX_LISTED
"""As many as one listing may name: of fewer, each look at a long backlog would read it all again.
About 40 MB when it is full."""
_MAX_WORDS = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """A sealed packet that lies in `incoming/`; `marks`: (snapshot, phase) in it, in order;
    `words`: its last report about each stream."""

    digest: bytes
    previous: bytes
    marks: tuple[tuple[str, str], ...]
    words: tuple[ReceivedUpToRow, ...] = ()


@dataclass(frozen=True, slots=True)
class _Look:
    """`inode`, `changed_ns`: of the file that was read, by keys as they were `then`."""

    inode: int
    changed_ns: int
    then: tuple[str, ...]
    seen: Seen | None


class _Looks:
    """What was read, by folder and seq; the oldest gives way. Several threads look at once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], _Look] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def same(self, place: tuple[str, int], look: _Look) -> _Look | None:
        """What was read of this very file, unless it or the keys have changed."""
        found = self._found.get(place)
        is_same = found is not None and (found.inode, found.changed_ns, found.then) == (
            look.inode, look.changed_ns, look.then,
        )  # fmt: skip
        return found if is_same else None

    def keep(self, place: tuple[str, int], look: _Look) -> None:
        with self._lock:
            if place not in self._found and len(self._found) >= MAX_LOOKED_AT:
                del self._found[next(iter(self._found))]
            self._found[place] = look


_looks = _Looks()


def look(path: Path, stream: str, seq: int, peer_key: PeerKey | KeyRing) -> Seen | None:
    """None for what is no packet of the peer's. Blocking."""
    file = _file_of(path, stream, peer_key)
    if file is None:
        return None
    place = (sys.intern(str(path.parent)), seq)
    known = _looks.same(place, file)
    if known is None:
        known = replace(file, seen=_read_seen(path, stream, seq, peer_key))
        _looks.keep(place, known)
    return known.seen


def is_known(path: Path, stream: str, seq: int, peer_key: PeerKey | KeyRing) -> bool:
    """Whether looking at it costs nothing: it was read, or it is gone. Blocking."""
    file = _file_of(path, stream, peer_key)
    return file is None or _looks.same((str(path.parent), seq), file) is not None


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
        opened += not is_known(path, stream, seq, peer_key)
        if opened > LOOKS_PER_CALL:
            return None
        seen = look(path, stream, seq, peer_key)
        for word in seen.words if seen else ():
            if word.stream == about:
                return seq, word
    return None


def _file_of(path: Path, stream: str, peer_key: PeerKey | KeyRing) -> _Look | None:
    """As it lies there, not read yet."""
    try:
        info = path.stat()
    except OSError:
        return None
    ids = peer_key.key_ids if isinstance(peer_key, KeyRing) else (peer_key.key_id,)
    # Not by its mtime and size: copying tools keep those of the file they copied, also when what
    # they copied first was damaged on its way.
    return _Look(info.st_ino, info.st_ctime_ns, _shared((stream, *ids)), None)


@lru_cache(maxsize=256)
def _shared(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same object for equal words: one tuple for a hundred thousand files."""
    return words


def _read_seen(path: Path, stream: str, seq: int, peer_key: PeerKey | KeyRing) -> Seen | None:
    try:
        head, lines = read(path, stream, seq, peer_key)
        marks = tuple((row.snapshot_id, row.phase) for row in _rows_of("snapshot", lines))
        words = {row.stream: row for row in _rows_of("received_up_to", lines)}
    except (OSError, BadPacket, rows.BadRow):
        return None
    return Seen(
        bytes.fromhex(head.digest),
        bytes.fromhex(head.manifest.previous),
        marks,
        tuple(words.values())[-_MAX_WORDS:],
    )


def _rows_of(topic: str, lines: list[packets.Line]) -> Iterator[Any]:
    return (rows.decode_clean(topic, line.row) for line in lines if line.topic == topic)
