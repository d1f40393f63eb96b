"""Packets cut into symbols for devices that lose files: any large enough part of them will do.

RaptorQ (RFC 6330), by the wheel of the extra `raptorq`. A packet file is cut into blocks of
BLOCK_BYTES, each block becomes a few more symbols than it needs, each symbol a small file of its
own: one canonical JSON line, then the symbol. Files of several packets are written in turns, so
that a device that loses many in a row takes a little of each. Whole packet files are accepted
beside them at any time. A damaged or foreign symbol is dropped and missed by nobody. Blocking.
"""

import contextlib
import hashlib
import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Protocol

import msgspec
import structlog
from msgspec import Meta, Struct

from estation.outside.gate import device, folders
from estation.outside.gate import format as packets
from estation.outside.gate.errors import BadPacket
from estation.outside.gate.format import SymbolName
from estation.outside.gate.rows import Digest

log = structlog.get_logger()

FORMAT: Literal["estation-gate-symbol"] = "estation-gate-symbol"
BLOCK_BYTES = 4 * 1024 * 1024
MIN_SYMBOL_BYTES = 1024
MAX_SYMBOL_BYTES = 32 * 1024
ALIGNMENT = 8
MIN_REPAIR = 8
"""Symbols more than needed, of even the smallest packet."""
REPAIR_PERCENT = 50
MAX_HEADER_BYTES = 1024
MAX_FILE_BYTES = MAX_HEADER_BYTES + MAX_SYMBOL_BYTES

MAX_TOGETHER = 8
"""Packets written in turns."""
MAX_TOGETHER_BYTES = 64 * 1024 * 1024
MAX_WAITING = 20_000
"""Symbol files the device has not taken: it stands still, and more would only fill the disk."""
MAX_KEPT = 50_000
MAX_OF_PACKET = 8192
"""Symbols of the largest packet three times over. More under one seq, and no packet: all go."""
MAX_AGE = timedelta(hours=24)
MAX_ASSEMBLED = 8


class Symbol(Struct, frozen=True, kw_only=True):
    """What a symbol file says of itself."""

    format: Literal["estation-gate-symbol"]
    version: Literal[1]
    stream: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
    seq: Annotated[int, Meta(ge=1, le=9_999_999_999)]
    size: Annotated[int, Meta(ge=1, le=packets.MAX_FILE_BYTES)]
    digest: Digest
    block: Annotated[int, Meta(ge=0, le=254)]
    esi: Annotated[int, Meta(ge=0, le=16_777_215)]
    oti: Annotated[str, Meta(pattern=r"^[0-9a-f]{24}\Z")]
    symbol_digest: Digest


@dataclass(slots=True)
class Assembled:
    """What one look brought: packets that are whole now, symbols dropped, and of these the ones
    that were of use but `beyond` what is kept."""

    packets: list[int]
    dropped: int = 0
    beyond: int = 0


@dataclass(frozen=True, slots=True)
class Cutting:
    """Packets of the peer whose gate folder is `of` go on as symbols, into `folder`."""

    of: Path
    folder: Path
    repair_percent: int = REPAIR_PERCENT


class Wish(Protocol):
    """The settings this is read from."""

    @property
    def folder(self) -> Path: ...
    @property
    def symbols_folder(self) -> Path | None: ...
    @property
    def symbols_repair_percent(self) -> int: ...


def from_settings(gate: Wish) -> Cutting | None:
    """None: whole files."""
    if gate.symbols_folder is None:
        return None
    return Cutting(gate.folder, gate.symbols_folder, gate.symbols_repair_percent)


def is_installed() -> bool:
    try:
        _wheel()
    except ModuleNotFoundError:
        return False
    return True


def cut(data: bytes, *, stream: str, seq: int, repair_percent: int) -> list[list[bytes]]:
    """The symbol files of one packet file, block by block."""
    digest = hashlib.sha256(data).hexdigest()
    blocks = []
    for number, start in enumerate(range(0, len(data), BLOCK_BYTES)):
        block = data[start : start + BLOCK_BYTES]
        size = symbol_bytes(len(block))
        needed = -(-len(block) // size)
        repair = max(MIN_REPAIR, -(-needed * repair_percent // 100))
        encoder = _wheel().Encoder.with_defaults(block, size)
        blocks.append(
            [
                _file(
                    Symbol(
                        format=FORMAT,
                        version=1,
                        stream=stream,
                        seq=seq,
                        size=len(data),
                        digest=digest,
                        block=number,
                        esi=int.from_bytes(coded[1:4], "big"),
                        oti=oti_of(len(block), size),
                        symbol_digest=hashlib.sha256(coded[4:]).hexdigest(),
                    ),
                    coded[4:],
                )
                for coded in encoder.get_encoded_packets(repair)
            ]
        )
    return blocks


def symbol_bytes(block_bytes: int) -> int:
    """A 128th of the block, in steps of 8 bytes, but neither tiny nor large."""
    size = -(-block_bytes // (128 * ALIGNMENT)) * ALIGNMENT
    return min(max(size, MIN_SYMBOL_BYTES), MAX_SYMBOL_BYTES)


def oti_of(block_bytes: int, symbol_size: int) -> str:
    """RFC 6330 §3.3.2 and §3.3.3: F, reserved, T, Z = 1, N = 1, Al = 8, as hex digits."""
    return f"{block_bytes:010x}00{symbol_size:04x}010001{ALIGNMENT:02x}"


def read_symbol(data: bytes) -> tuple[Symbol, bytes]:
    """Header and symbol of a file's bytes. Raises ValueError for whatever is not right in it."""
    text, found, symbol = data.partition(b"\n")
    if not found:
        raise ValueError("no header")
    header = _header(text)
    if len(symbol) != int(header.oti[12:16], 16):
        raise ValueError("size")
    if hashlib.sha256(symbol).hexdigest() != header.symbol_digest:
        raise ValueError("digest")
    return header, symbol


def _header(text: bytes) -> Symbol:
    """Raises ValueError also for one that speaks of an impossible block."""
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError("no header")
    try:
        header = msgspec.json.decode(text, type=Symbol)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise ValueError("bad header") from problem
    _require_possible(header)
    return header


def _require_possible(header: Symbol) -> None:
    block_bytes, size = int(header.oti[:10], 16), int(header.oti[12:16], 16)
    rest = header.size - header.block * BLOCK_BYTES
    if rest < 1 or block_bytes != min(rest, BLOCK_BYTES):
        raise ValueError("block")
    if header.oti != oti_of(block_bytes, size) or size != symbol_bytes(block_bytes):
        raise ValueError("oti")


def _file(header: Symbol, symbol: bytes) -> bytes:
    return packets.canonical(msgspec.to_builtins(header)) + b"\n" + symbol


def cut_folder(outgoing: Path, device_folder: Path, *, repair_percent: int = REPAIR_PERCENT) -> int:
    """Turn finished packets of `outgoing` into symbols in `device_folder`, in turns; how many.

    At most MAX_TOGETHER packets; none while the device leaves too many symbols lying. Without
    the wheel whole packets are moved instead. A crash leaves the packet where it was, and its
    symbols are written again.
    """
    if not is_installed():
        return device.move_once(outgoing, device_folder)
    device_folder.mkdir(parents=True, exist_ok=True)
    if device_is_full(device_folder) or not outgoing.is_dir():
        return 0
    names = sorted(name for name in os.listdir(outgoing) if packets.parse_name(name))
    together: list[str] = []
    lists: list[list[bytes]] = []
    size = 0
    for name in names[:MAX_TOGETHER]:
        parsed = packets.parse_name(name)
        try:
            data = folders.read_bounded(outgoing / name)
        except (BadPacket, FileNotFoundError):
            continue
        size += len(data)
        if together and size > MAX_TOGETHER_BYTES:
            break
        if parsed is not None:
            lists += cut(data, stream=parsed[0], seq=parsed[1], repair_percent=repair_percent)
            together.append(name)
    _write_in_turns(device_folder, lists)
    for name in together:
        folders.remove(outgoing / name)
    return len(together)


def _write_in_turns(folder: Path, lists: Sequence[Sequence[bytes]]) -> None:
    """All of them durable before this returns: then the packet itself may go."""
    written = []
    for turn in zip_longest(*lists):
        for data in turn:
            if data is None:
                continue
            header = msgspec.json.decode(data.partition(b"\n")[0], type=Symbol)
            name = packets.symbol_name(
                SymbolName(header.stream, header.seq, header.block, header.esi)
            )
            temporary = folder / f".{name}.part"
            temporary.write_bytes(data)
            os.replace(temporary, folder / name)
            written.append(folder / name)
    for path in written:
        _sync(path)
    folders.sync_folder(folder)


def _sync(path: Path) -> None:
    """Those the device has taken already need none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def device_is_full(device_folder: Path) -> bool:
    """Whether it leaves too many symbols lying for more. Blocking."""
    return _count(device_folder) >= MAX_WAITING


def device_has_room(device_folder: Path) -> bool:
    """Whether it is half empty again: of one that takes a file each time we write one the want of
    room would begin and end with every file. Blocking."""
    return _count(device_folder) <= MAX_WAITING // 2


def has_room(incoming: Path) -> bool:
    """As `device_has_room`, for symbols that come (MAX_KEPT). Blocking."""
    return _count(incoming) <= MAX_KEPT // 2


def _count(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(1 for entry in entries if entry.name.endswith(".rq"))
    except FileNotFoundError:
        return 0


def assemble(
    folder: Path, names: Sequence[str], *, applied: int, whole: Mapping[int, str], now: datetime
) -> Assembled:
    """Make packet files of the symbols in `folder`, oldest first, at most MAX_ASSEMBLED.

    Symbols of packets that are applied (up to `applied`) or here as a whole (`whole`) are
    dropped, and so is what is too old or beyond MAX_KEPT: the sender writes it again.
    """
    of_seq: dict[tuple[int, str], list[str]] = {}
    for name in names:
        parsed = packets.parse_symbol_name(name)
        if parsed is not None:
            of_seq.setdefault((parsed.seq, parsed.stream), []).append(name)
    done = Assembled([])
    kept = 0
    for (seq, stream), files in sorted(of_seq.items()):
        if seq <= applied or seq in whole or _is_old(folder / files[0], now):
            done.dropped += _drop(folder, files)
            continue
        kept += len(files)
        if kept > MAX_KEPT:
            gone = _drop(folder, files)
            done.beyond, done.dropped = done.beyond + gone, done.dropped + gone
        elif len(done.packets) < MAX_ASSEMBLED and _assemble_one(folder, stream, seq, files, done):
            done.packets.append(seq)
            _drop(folder, files)
    return done


def _is_old(path: Path, now: datetime) -> bool:
    """By its ctime, our own clock's: its mtime may be that of the device, or of long ago."""
    try:
        return now.timestamp() - path.lstat().st_ctime > MAX_AGE.total_seconds()
    except FileNotFoundError:
        return False


Found = dict[int, dict[int, str]]
"""Names of symbol files by block and ESI, of one packet digest and size."""


def _assemble_one(
    folder: Path, stream: str, seq: int, files: Sequence[str], done: Assembled
) -> bool:
    """Whether the packet is whole now. Reads headers only, and bodies of what may be enough."""
    known_as = str(folder), seq
    looks = _look_of(folder, files)
    if _fruitless.get(known_as) == looks:
        return False
    for (digest, size), found in _by_packet(folder, files, done).items():
        if not _may_be_enough(size, found):
            continue
        data = _decode(folder, digest, size, found, done)
        if data is None:
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            # Somebody put symbols among the others that only look right: this set goes.
            log.error("gate_symbols_contradict", seq=seq)
            done.dropped += _drop(folder, [n for block in found.values() for n in block.values()])
            continue
        folders.write_atomically(folder, packets.file_name(stream, seq), [data])
        _fruitless.pop(known_as, None)
        return True
    if len(files) > MAX_OF_PACKET:
        log.error("gate_symbols_too_many", seq=seq, files=len(files))
        done.dropped += _drop(folder, files)
    if len(_fruitless) >= _MAX_FRUITLESS:
        _fruitless.clear()
    _fruitless[known_as] = looks
    return False


_MAX_FRUITLESS = 1000
_fruitless: dict[tuple[str, int], int] = {}
"""What was not enough by folder and seq: the same files are not read at each look."""


def _look_of(folder: Path, names: Sequence[str]) -> int:
    """Another one when a file came, went or was written again."""
    seen = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            info = (folder / name).lstat()
            seen.append((name, info.st_ino, info.st_ctime_ns))
    return hash(tuple(seen))


def _by_packet(folder: Path, names: Sequence[str], done: Assembled) -> dict[tuple[str, int], Found]:
    """The symbols of each packet that the headers speak of; a wrong header's file is dropped."""
    found: dict[tuple[str, int], Found] = {}
    for name in names:
        header = _read_header(folder, name, done)
        if header is not None:
            blocks = found.setdefault((header.digest, header.size), {})
            blocks.setdefault(header.block, {})[header.esi] = name
    return found


def _may_be_enough(size: int, found: Found) -> bool:
    """By the number of symbols alone, whatever is in them."""
    return all(
        len(found.get(number, ())) >= -(-length // symbol_bytes(length))
        for number, length in enumerate(_block_lengths(size))
    )


def _block_lengths(size: int) -> list[int]:
    return [min(BLOCK_BYTES, size - start) for start in range(0, size, BLOCK_BYTES)]


def _read_header(folder: Path, name: str, done: Assembled) -> Symbol | None:
    """Of a file that is what its name says; anything else is dropped."""
    try:
        text, found, _ = folders.read_beginning(folder / name).partition(b"\n")
        if not found:
            raise ValueError("no header")
        header = _header(text)
        _require_name(header, name)
    except FileNotFoundError:
        return None
    except (BadPacket, ValueError) as problem:
        _drop_damaged(folder, name, problem, done)
        return None
    return header


def _require_name(header: Symbol, name: str) -> None:
    if name != packets.symbol_name(SymbolName(header.stream, header.seq, header.block, header.esi)):
        raise ValueError("name")


def _drop_damaged(folder: Path, name: str, problem: Exception, done: Assembled) -> None:
    log.warning("gate_symbol_damaged", name=name, why=str(problem))
    done.dropped += _drop(folder, [name])


def _read(folder: Path, name: str, of: tuple[str, int], done: Assembled) -> bytes | None:
    """The symbol in this file, still one of this packet; a damaged file is dropped."""
    try:
        header, symbol = read_symbol(folders.read_bounded(folder / name, MAX_FILE_BYTES))
        _require_name(header, name)
    except FileNotFoundError:
        return None
    except (BadPacket, ValueError) as problem:
        _drop_damaged(folder, name, problem, done)
        return None
    return symbol if (header.digest, header.size) == of else None


def _decode(folder: Path, digest: str, size: int, found: Found, done: Assembled) -> bytes | None:
    """The packet file, or None when one of its blocks needs more symbols."""
    whole = bytearray()
    for number, length in enumerate(_block_lengths(size)):
        symbols = (
            (esi, symbol)
            for esi, name in sorted(found[number].items())
            if (symbol := _read(folder, name, (digest, size), done)) is not None
        )
        block = _decode_block(length, symbols)
        if block is None:
            return None
        whole += block
    return bytes(whole)


def _decode_block(length: int, symbols: Iterable[tuple[int, bytes]]) -> bytes | None:
    """Takes no more symbols than it needs."""
    decoder: Any = _wheel().Decoder.with_defaults(length, symbol_bytes(length))
    for esi, symbol in symbols:
        # The wheel wants the payload id of RFC 6330 §3.2 before it: source block 0, then the ESI.
        block: bytes | None = decoder.decode(b"\0" + esi.to_bytes(3, "big") + symbol)
        if block is not None:
            return block
    return None


def _drop(folder: Path, names: Sequence[str]) -> int:
    for name in names:
        folders.remove(folder / name)
    return len(names)


def _wheel() -> ModuleType:
    # Looked up at use: the default installation does without it. Cached by the import system.
    return importlib.import_module("raptorq")
