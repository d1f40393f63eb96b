"""Packets cut into symbols for devices that lose files: any large enough part of them will do.

RaptorQ (RFC 6330), by the wheel of the extra `raptorq`. A packet file is cut into blocks of
BLOCK_BYTES, each block becomes a few more symbols than it needs, each symbol a small file of its
own: one canonical JSON line, then the symbol. Files of several packets are written in turns, so
that a device that loses many in a row takes a little of each. Whole packet files are accepted
beside them at any time. A damaged or foreign symbol is dropped and missed by nobody. Blocking.
"""

import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
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
    """What one look brought: packets that are whole now, symbols dropped as of no use."""

    packets: list[int]
    dropped: int = 0


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
    if not found or len(text) > MAX_HEADER_BYTES:
        raise ValueError("no header")
    try:
        header = msgspec.json.decode(text, type=Symbol)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise ValueError("bad header") from problem
    _needed(header)
    if len(symbol) != int(header.oti[12:16], 16):
        raise ValueError("size")
    if hashlib.sha256(symbol).hexdigest() != header.symbol_digest:
        raise ValueError("digest")
    return header, symbol


def _needed(header: Symbol) -> int:
    """How many symbols the block needs at least. Raises ValueError for an impossible block."""
    block_bytes, size = int(header.oti[:10], 16), int(header.oti[12:16], 16)
    rest = header.size - header.block * BLOCK_BYTES
    if rest < 1 or block_bytes != min(rest, BLOCK_BYTES):
        raise ValueError("block")
    if header.oti != oti_of(block_bytes, size) or size != symbol_bytes(block_bytes):
        raise ValueError("oti")
    return -(-block_bytes // size)


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
    if _count(device_folder) >= MAX_WAITING or not outgoing.is_dir():
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


def _count(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(1 for entry in entries if entry.name.endswith(".rq"))


Blocks = dict[int, list[str]]


def assemble(
    folder: Path, names: Sequence[str], *, applied: int, whole: Mapping[int, str], now: datetime
) -> Assembled:
    """Make packet files of the symbols in `folder`, oldest first, at most MAX_ASSEMBLED.

    Symbols of packets that are applied (up to `applied`) or here as a whole (`whole`) are
    dropped, and so is what is too old or beyond MAX_KEPT: the sender writes it again.
    """
    of_seq: dict[int, Blocks] = {}
    for name in names:
        parsed = packets.parse_symbol_name(name)
        if parsed is not None:
            of_seq.setdefault(parsed.seq, {}).setdefault(parsed.block, []).append(name)
    done = Assembled([])
    kept = 0
    for seq, blocks in sorted(of_seq.items()):
        files = [name for block in blocks.values() for name in block]
        kept += len(files)
        if seq <= applied or seq in whole or kept > MAX_KEPT or _is_old(folder / files[0], now):
            done.dropped += _drop(folder, files)
        elif len(done.packets) < MAX_ASSEMBLED and _assemble_one(folder, seq, blocks, done):
            done.packets.append(seq)
            _drop(folder, files)
    return done


def _is_old(path: Path, now: datetime) -> bool:
    try:
        return now.timestamp() - path.lstat().st_mtime > MAX_AGE.total_seconds()
    except FileNotFoundError:
        return False


def _assemble_one(folder: Path, seq: int, blocks: Blocks, done: Assembled) -> bool:
    """Whether the packet is whole now. Reads next to nothing while too few symbols are here."""
    first = _first_header(folder, blocks, done)
    if first is None or not _may_be_enough(first, blocks):
        return False
    of_packet: dict[tuple[str, int], dict[int, dict[int, bytes]]] = {}
    for name in (name for block in blocks.values() for name in block):
        header, symbol = _read(folder, name, done)
        if header is not None:
            packet = of_packet.setdefault((header.digest, header.size), {})
            packet.setdefault(header.block, {})[header.esi] = symbol
    for (digest, size), given in of_packet.items():
        data = _decode(size, given)
        if data is None:
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            # Somebody put symbols among the others that only look right: all of them go.
            log.error("gate_symbols_contradict", seq=seq)
            done.dropped += _drop(folder, [name for block in blocks.values() for name in block])
            return False
        folders.write_atomically(folder, packets.file_name(first.stream, seq), [data])
        return True
    return False


def _first_header(folder: Path, blocks: Blocks, done: Assembled) -> Symbol | None:
    for block in blocks.values():
        for name in list(block):
            header, _ = _read(folder, name, done)
            if header is not None:
                return header
            block.remove(name)
    return None


def _may_be_enough(header: Symbol, blocks: Blocks) -> bool:
    """By the number of files alone, whatever is in them."""
    return all(
        len(blocks.get(number, ())) >= -(-length // symbol_bytes(length))
        for number, length in enumerate(_block_lengths(header.size))
    )


def _block_lengths(size: int) -> list[int]:
    return [min(BLOCK_BYTES, size - start) for start in range(0, size, BLOCK_BYTES)]


def _read(folder: Path, name: str, done: Assembled) -> tuple[Symbol | None, bytes]:
    """A symbol that is what its name says; anything else is dropped."""
    try:
        header, symbol = read_symbol(folders.read_bounded(folder / name, MAX_FILE_BYTES))
        if (
            packets.symbol_name(SymbolName(header.stream, header.seq, header.block, header.esi))
            != name
        ):
            raise ValueError("name")
    except FileNotFoundError:
        return None, b""
    except (BadPacket, ValueError) as problem:
        log.warning("gate_symbol_damaged", name=name, why=str(problem))
        done.dropped += _drop(folder, [name])
        return None, b""
    return header, symbol


def _decode(size: int, given: Mapping[int, Mapping[int, bytes]]) -> bytes | None:
    """The packet file, or None when one of its blocks needs more symbols."""
    whole = bytearray()
    for number, length in enumerate(_block_lengths(size)):
        block = _decode_block(length, given.get(number, {}))
        if block is None:
            return None
        whole += block
    return bytes(whole)


def _decode_block(length: int, symbols: Mapping[int, bytes]) -> bytes | None:
    size = symbol_bytes(length)
    if len(symbols) < -(-length // size):
        return None
    decoder: Any = _wheel().Decoder.with_defaults(length, size)
    for esi, symbol in sorted(symbols.items()):
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
