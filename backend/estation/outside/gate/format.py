"""One packet as bytes: a canonical JSON manifest, a line feed, one zstd frame of JSON lines.

    {"body_length":…,"created_at":…,"digest":…,"format":"estation-gate",…,"seal":{…}}\n
    <zstd: {"row":{…},"topic":"fee_bill"}\n …>

Canonical: UTF-8, keys sorted, no white space, no escapes but JSON's own. The seal signs the
canonical manifest without `seal`; the packet's digest, which the next packet names as
`previous`, is the SHA-256 of the same bytes, so that it covers rows, watermark and history.
Everything is checked cheapest first: nothing is unpacked before seal and digest hold.
"""

import base64
import binascii
import codecs
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import zstandard
from msgspec import Meta, Struct

from estation.outside.gate import rows
from estation.outside.gate.errors import BadPacket, Reason
from estation.outside.gate.keys import KeyRing, PeerKey, SealKey
from estation.outside.gate.rows import NUL, Digest, Moment, fault_of_moments

FORMAT: Literal["estation-gate"] = "estation-gate"
VERSION: Literal[1] = 1
NO_PREVIOUS = "0" * 64

MAX_MANIFEST_BYTES = 8 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_FILE_BYTES = MAX_MANIFEST_BYTES + 1 + MAX_BODY_BYTES
MAX_LINES_BYTES = 32 * 1024 * 1024
FREE_LINES_BYTES = 16 * 1024 * 1024
"""Up to here any ratio is allowed, so senders that stay below are never refused for it."""
MAX_RATIO = 200
MAX_ROWS = 20_000
"""Rows as read take several times the room of their lines: all of a packet are held at once."""
MAX_LINE_BYTES = 1024 * 1024
_MAX_WINDOW = 8 * 1024 * 1024
_LEVEL = 3

_NAME = re.compile(r"(?P<stream>[a-z0-9][a-z0-9-]{0,62})-(?P<seq>[0-9]{10})\.gate", re.ASCII)
_SYMBOL = re.compile(
    r"(?P<stream>[a-z0-9][a-z0-9-]{0,62})-(?P<seq>[0-9]{10})"
    r"\.(?P<block>[0-9]{3})\.(?P<esi>[0-9]{8})\.rq",
    re.ASCII,
)
_UNFINISHED = re.compile(
    r"\.[a-z0-9][a-z0-9-]{0,62}-[0-9]{10}(?:\.gate|\.[0-9]{3}\.[0-9]{8}\.rq)\.[A-Za-z0-9]{1,16}",
    re.ASCII,
)
_STREAM = r"^[a-z0-9][a-z0-9-]{0,62}\Z"


class SymbolName(NamedTuple):
    """What the file name of a symbol (`symbols`) says."""

    stream: str
    seq: int
    block: int
    esi: int


class Seal(Struct, frozen=True, kw_only=True):
    """Which key signed, and the signature in base64."""

    algorithm: Annotated[str, Meta(max_length=32)]
    key: Annotated[str, Meta(max_length=64)]
    signature: Annotated[str, Meta(max_length=1024)]


class Manifest(Struct, frozen=True, kw_only=True):
    """What a packet says of itself; fields of later minor versions are signed and ignored."""

    format: Literal["estation-gate"] = FORMAT
    version: Literal[1] = VERSION
    stream: Annotated[str, Meta(pattern=_STREAM)]
    seq: Annotated[int, Meta(ge=1, le=9_999_999_999)]
    previous: Digest
    count: Annotated[int, Meta(ge=0, le=MAX_ROWS)]
    lines_length: Annotated[int, Meta(ge=0, le=MAX_LINES_BYTES)]
    body_length: Annotated[int, Meta(ge=0, le=MAX_BODY_BYTES)]
    digest: Digest  # SHA-256 of the zstd bytes
    watermark: Moment
    created_at: Moment


class Line(Struct, frozen=True):
    """One row, its content not yet read."""

    topic: Annotated[str, Meta(min_length=1, max_length=64)]
    row: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Built:
    """A sealed packet: the manifest line without its line feed, and the body."""

    manifest: bytes
    body: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class Head:
    """A manifest that was read but not yet believed."""

    manifest: Manifest
    seal: Seal
    signed: bytes
    digest: str


def valid_stream(stream: str) -> bool:
    """Whether a stream may have this name: it becomes part of file names."""
    return re.match(_STREAM, stream) is not None


def file_name(stream: str, seq: int) -> str:
    return f"{stream}-{seq:010d}.gate"


def parse_name(name: str) -> tuple[str, int] | None:
    """(stream, seq) of a packet's file name, or None for any other name."""
    match = _NAME.fullmatch(name)
    return (match["stream"], int(match["seq"])) if match else None


def symbol_name(name: SymbolName) -> str:
    return f"{name.stream}-{name.seq:010d}.{name.block:03d}.{name.esi:08d}.rq"


def parse_symbol_name(name: str) -> SymbolName | None:
    """Of a symbol's file name, or None for any other name."""
    match = _SYMBOL.fullmatch(name)
    if match is None:
        return None
    return SymbolName(match["stream"], int(match["seq"]), int(match["block"]), int(match["esi"]))


def is_being_written(name: str) -> bool:
    """The hidden name of an incomplete packet or symbol, ours or a copying tool's (rsync)."""
    return _UNFINISHED.fullmatch(name) is not None


def build(
    *,
    stream: str,
    seq: int,
    previous: str,
    lines: Sequence[bytes],
    watermark: datetime,
    created_at: datetime,
    key: SealKey,
) -> Built:
    """Seal lines (without line feeds) into a packet. The caller keeps within the limits."""
    text = b"".join(part for line in lines for part in (line, b"\n"))
    body = zstandard.ZstdCompressor(level=_LEVEL).compress(text)
    manifest = Manifest(
        stream=stream,
        seq=seq,
        previous=previous,
        count=len(lines),
        lines_length=len(text),
        body_length=len(body),
        digest=hashlib.sha256(body).hexdigest(),
        watermark=watermark,
        created_at=created_at,
    )
    signed = canonical(msgspec.to_builtins(manifest))
    seal = Seal(
        algorithm=key.algorithm,
        key=key.key_id,
        signature=base64.b64encode(key.sign(signed)).decode(),
    )
    full = canonical({**msgspec.to_builtins(manifest), "seal": msgspec.to_builtins(seal)})
    return Built(manifest=full, body=body, digest=hashlib.sha256(signed).hexdigest())


def line(topic: str, row: bytes) -> bytes:
    """One line of a body. `row` is JSON; the topic is one of ours and needs no escaping."""
    return b'{"row":' + row + b',"topic":"' + topic.encode() + b'"}'


def canonical(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def read_head(data: bytes) -> Head:
    """The manifest at the beginning of a file. Raises BadPacket; checks no seal."""
    text, found, _ = data[: MAX_MANIFEST_BYTES + 1].partition(b"\n")
    if not found:
        raise BadPacket(Reason.bad_manifest, "no manifest line")
    try:
        fields = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise BadPacket(Reason.bad_manifest, "not JSON") from problem
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise BadPacket(Reason.bad_manifest, "not a gate packet")
    if fields.get("version") != VERSION:
        raise BadPacket(Reason.unsupported_version, "this receiver reads version 1")
    # A manifest has one spelling only: no doubled keys, no white space to hide things in.
    if not _is_canonical(text):
        raise BadPacket(Reason.bad_manifest, "not canonical")
    seal = fields.pop("seal", None)
    try:
        head = Head(
            manifest=msgspec.convert(fields, Manifest),
            seal=msgspec.convert(seal, Seal),
            signed=(signed := canonical(fields)),
            digest=hashlib.sha256(signed).hexdigest(),
        )
    except msgspec.ValidationError as problem:
        raise BadPacket(Reason.bad_manifest, str(problem)) from None
    if fault := fault_of_moments(head.manifest, text):
        raise BadPacket(Reason.bad_manifest, fault)
    return head


def _is_canonical(text: bytes) -> bool:
    """Without fractions and numbers beyond 64 bits, too, also in fields of later versions."""
    try:
        return rows.canonical(text) == text
    except rows.BadRow:
        return False


def check_seal(head: Head, trusted: PeerKey | KeyRing) -> None:
    """Raises BadPacket(bad_seal) unless the peer signed exactly this manifest."""
    if isinstance(trusted, KeyRing):
        named = trusted.named(head.seal.key)
        if named is None:
            word = trusted.why_not(head.seal.key)
            raise BadPacket(Reason.bad_seal, f"sealed by {word} key {head.seal.key!a}")
        peer_key = named
    else:
        peer_key = trusted
    if (head.seal.algorithm, head.seal.key) != (peer_key.algorithm, peer_key.key_id):
        raise BadPacket(Reason.bad_seal, f"sealed by unknown key {head.seal.key!a}")
    try:
        signature = base64.b64decode(head.seal.signature, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise BadPacket(Reason.bad_seal, "signature is not base64") from problem
    # Base64 leaves spare bits at its end: there must be one spelling of a packet only.
    if base64.b64encode(signature).decode() != head.seal.signature:
        raise BadPacket(Reason.bad_seal, "signature is not canonical base64")
    if not peer_key.verify(head.signed, signature):
        raise BadPacket(Reason.bad_seal, "signature does not fit")


def check_name(head: Head, *, stream: str, seq: int) -> None:
    """Raises BadPacket when file name and manifest disagree."""
    manifest = head.manifest
    if manifest.stream != stream:
        raise BadPacket(Reason.foreign_stream, "the manifest names another stream")
    if manifest.seq != seq:
        raise BadPacket(Reason.name_mismatch, f"the manifest says seq {manifest.seq}")


def read_lines(data: bytes, head: Head) -> Iterator[Line]:
    """The rows of a whole file whose seal holds, one after the other.

    Raises BadPacket, for what is no row only at its turn; bounded in every respect.
    """
    manifest = head.manifest
    body = memoryview(data)[data.index(b"\n") + 1 :]
    if len(body) != manifest.body_length:
        raise BadPacket(
            Reason.truncated, f"{len(body)} bytes of body instead of {manifest.body_length}"
        )
    if hashlib.sha256(body).hexdigest() != manifest.digest:
        raise BadPacket(Reason.bad_digest, "the body is not the one that was sealed")
    text = _unpack(body, manifest)
    if text and not text.endswith(b"\n"):
        raise BadPacket(Reason.bad_body, "the last line has no end")
    if (count := text.count(b"\n")) != manifest.count:
        raise BadPacket(Reason.bad_count, f"{count} rows instead of {manifest.count}")
    _require_short(text)
    return _each_line(text)


def read_made(manifest: bytes, body: bytes) -> Iterator[Line]:
    """The rows of a packet we made ourselves (`Built`), in their order."""
    data = manifest + b"\n" + body
    return read_lines(data, read_head(data))


def _require_short(text: bytes) -> None:
    start = number = 0
    while start < len(text):
        number += 1
        end = text.index(b"\n", start)
        if end - start > MAX_LINE_BYTES:
            raise BadPacket(Reason.row_too_long, f"line {number} has {end - start} bytes")
        start = end + 1


def _each_line(text: bytes) -> Iterator[Line]:
    """One after the other: the lines are not held a second time beside the text."""
    start = number = 0
    while start < len(text):
        number += 1
        end = text.index(b"\n", start)
        line = _read_line(text[start:end], number)
        # Also of topics nobody here knows: who reads it later finds an object, as every row is one.
        if bytes(memoryview(line.row)[:1]) != b"{":
            raise BadPacket(Reason.bad_row, f"line {number}, topic {line.topic}: not an object")
        yield line
        start = end + 1


def _unpack(body: memoryview, manifest: Manifest) -> bytes:
    limit = manifest.lines_length
    if limit > FREE_LINES_BYTES and limit > MAX_RATIO * len(body):
        raise BadPacket(Reason.zip_bomb, f"would grow more than {MAX_RATIO} times")
    _require_one_frame(body)
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    try:
        with unpacker.stream_reader(body, read_across_frames=False) as reader:
            text = reader.read(limit + 1)
    except zstandard.ZstdError as problem:
        raise BadPacket(Reason.bad_body, "not zstd") from problem
    if len(text) > limit:
        raise BadPacket(Reason.zip_bomb, "grows beyond what the manifest says")
    if len(text) < limit:
        raise BadPacket(Reason.bad_body, "unpacks to less than the manifest says")
    _require_utf8(text)
    if NUL in text or b"\0" in text:
        raise BadPacket(Reason.bad_encoding, "NUL character")
    return text


def _require_one_frame(body: memoryview) -> None:
    """Block by block (RFC 8878 §3.1.1), nothing unpacked: the unpacker itself would neither miss
    the frame's end nor look at what stands behind it."""
    try:
        at = zstandard.frame_header_size(body)
        has_checksum = zstandard.get_frame_parameters(body).has_checksum
    except zstandard.ZstdError as problem:
        raise BadPacket(Reason.bad_body, "not zstd") from problem
    is_last = False
    while not is_last and at + 3 <= len(body):
        header = int.from_bytes(body[at : at + 3], "little")
        is_last = bool(header & 1)
        is_run = header >> 1 & 3 == 1  # one byte, repeated
        at += 3 + (1 if is_run else header >> 3)
    if not is_last or at + 4 * has_checksum != len(body):
        raise BadPacket(Reason.bad_body, "not exactly one zstd frame")


def _require_utf8(text: bytes) -> None:
    """Piece by piece: as one `str` a text may need four times its room."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(text), MAX_LINE_BYTES):
            decoder.decode(text[start : start + MAX_LINE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as problem:
        raise BadPacket(Reason.bad_encoding, "not UTF-8") from problem


_line_decoder = msgspec.json.Decoder(Line)


def _read_line(line: bytes, number: int) -> Line:
    try:
        return _line_decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise BadPacket(Reason.bad_row, f"line {number} is not a row") from problem
