"""A second, independent writer of gate packets, made from SPEC.md alone.

It imports nothing of estation: what it writes and estation reads is what the document says.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zstandard
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Row = dict[str, Any]


def canonical(value: Any) -> bytes:
    """2.1"""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Ed25519Key:
    """2.4"""

    algorithm = "ed25519"

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = hashlib.sha256(self.public).hexdigest()[:16]

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
A = P - 3
B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
G = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
Point = tuple[int, int] | None


def _add(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return one or other
    if one[0] == other[0] and (one[1] + other[1]) % P == 0:
        return None
    if one == other:
        slope = (3 * one[0] ** 2 + A) * pow(2 * one[1], -1, P)
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, P)
    x = (slope**2 - one[0] - other[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def _times(number: int, point: Point) -> Point:
    total: Point = None
    while number:
        if number & 1:
            total = _add(total, point)
        point, number = _add(point, point), number >> 1
    return total


def _sm3(*parts: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    for part in parts:
        digest.update(part)
    return digest.finalize()


def _der(number: int) -> bytes:
    body = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes([len(body)]) + body


class Sm2Key:
    """2.4; its k is made of message and key, so that vectors come out the same each time."""

    algorithm = "sm2-sm3"

    def __init__(self, number: bytes) -> None:
        self._number = int.from_bytes(number, "big")
        point = _times(self._number, G)
        assert point is not None
        self.public = b"".join(one.to_bytes(32, "big") for one in point)
        self.key_id = hashlib.sha256(b"\x04" + self.public).hexdigest()[:16]

    def sign(self, data: bytes) -> bytes:
        name = b"1234567812345678"
        curve = b"".join(one.to_bytes(32, "big") for one in (A, B, *G))
        z = _sm3((8 * len(name)).to_bytes(2, "big"), name, curve, self.public)
        e = int.from_bytes(_sm3(z, data), "big")
        secret = self._number.to_bytes(32, "big")
        k = int.from_bytes(hashlib.sha512(secret + data).digest(), "big") % (N - 1) + 1
        point = _times(k, G)
        assert point is not None
        r = (e + point[0]) % N
        s = pow(1 + self._number, -1, N) * (k - r * self._number) % N
        body = _der(r) + _der(s)
        return b"\x30" + bytes([len(body)]) + body


Key = Ed25519Key | Sm2Key


def line(topic: str, row: Row) -> bytes:
    """2.5"""
    return canonical({"topic": topic, "row": row}) + b"\n"


def manifest_of(body: bytes, lines: bytes, **fields: Any) -> Row:
    """2.2"""
    return {
        "format": "estation-gate",
        "version": 1,
        "count": lines.count(b"\n"),
        "lines_length": len(lines),
        "body_length": len(body),
        "digest": hashlib.sha256(body).hexdigest(),
        **fields,
    }


def seal(manifest: Row, key: Key) -> bytes:
    """2.4: the whole first line, without its line feed."""
    signature = base64.b64encode(key.sign(canonical(manifest))).decode()
    sealed = {"algorithm": key.algorithm, "key": key.key_id, "signature": signature}
    return canonical({**manifest, "seal": sealed})


def pack(lines: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(lines)


def file_name(stream: str, seq: int) -> str:
    """1"""
    return f"{stream}-{seq:010d}.gate"


def identity(topic: str, row: Row) -> tuple[str, str, int] | None:
    """5.1: source, key, version."""
    if topic == "receipt":
        return row["source"], f"{row['source_id']}:{row['order_no']}", 1
    if topic == "refund":
        number = row["refund_no"] or ":" + row["order_source_id"]
        return row["source"], f"{row['source_id']}:{number}", row["version"]
    if topic == "payment_evidence":
        key = f"{row['source_id']}:{row['order_no']}:{row['out_trade_no']}"
        return row["source"], key, row["version"]
    if topic in ("received_up_to", "snapshot", "proof", "rows_wanted", "repair"):
        return None
    if not {"source", "source_id"} <= row.keys():
        return None
    return row["source"], row["source_id"], row.get("version", 1)


def row_digest(row: Row) -> bytes:
    """5.1"""
    return hashlib.sha256(canonical(row)).digest()


def bucket_of(key: str) -> int:
    """6.3"""
    return hashlib.sha256(key.encode()).digest()[0]


def leaf_of(topic: str, source: str, key: str, version: int, digest: bytes) -> bytes:
    """6.3"""
    names = topic.encode() + b"\0" + source.encode() + b"\0" + key.encode() + b"\0"
    return hashlib.sha256(names + version.to_bytes(8, "big") + digest).digest()


def buckets_of(topic: str, source: str, things: dict[str, tuple[int, Row]]) -> list[str]:
    """6.3: `things` are key -> version and row."""
    leaves: list[bytes] = [b""] * 256
    for key in sorted(things, key=str.encode):
        version, row = things[key]
        leaves[bucket_of(key)] += leaf_of(topic, source, key, version, row_digest(row))
    return [hashlib.sha256(one).hexdigest() if one else "0" * 64 for one in leaves]


def root_of(buckets: Iterable[str]) -> str:
    """6.3"""
    level = [bytes.fromhex(one) for one in buckets]
    while len(level) > 1:
        level = [hashlib.sha256(level[n] + level[n + 1]).digest() for n in range(0, len(level), 2)]
    return level[0].hex()


def rows_in(packet: bytes) -> list[tuple[str, Row]]:
    """2, 2.5: what somebody else's packet says, its digest and chain left to others."""
    manifest, _, body = packet.partition(b"\n")
    fields = json.loads(manifest)
    assert hashlib.sha256(body).hexdigest() == fields["digest"]
    lines = zstandard.ZstdDecompressor().decompress(body, max_output_size=128 * 1024 * 1024)
    assert len(lines) == fields["lines_length"]
    return [(one["topic"], one["row"]) for one in map(json.loads, lines.splitlines())]


class Writer:
    """One stream into one folder (1, 3, 6)."""

    def __init__(self, folder: Path, stream: str, key: Key, *, at: str) -> None:
        self.folder = folder
        self.stream = stream
        self.key = key
        self.at = at
        self.seq = 0
        self.previous = "0" * 64
        self.written: dict[int, bytes] = {}
        self.log: dict[tuple[str, str], dict[str, tuple[int, Row]]] = {}

    def write(self, *rows: tuple[str, Row]) -> Path:
        """A packet of these rows; the file."""
        for topic, row in rows:
            self.keep(topic, row)
        lines = b"".join(line(topic, row) for topic, row in rows)
        body = pack(lines)
        manifest = manifest_of(
            body,
            lines,
            stream=self.stream,
            seq=self.seq + 1,
            previous=self.previous,
            watermark=self.at,
            created_at=self.at,
        )
        self.seq += 1
        self.previous = hashlib.sha256(canonical(manifest)).hexdigest()
        self.written[self.seq] = seal(manifest, self.key) + b"\n" + body
        return self._put(self.written[self.seq], self.seq)

    def again(self, seq: int) -> Path:
        """3.1: the same bytes under the same name."""
        return self._put(self.written[seq], seq)

    def snapshot(self, snapshot_id: str) -> list[tuple[str, Row]]:
        """6.2: rows of a whole snapshot, and of a proof for each topic and source."""
        return [self.begin(snapshot_id), *self.everything(), *self.end(snapshot_id)]

    def begin(self, snapshot_id: str) -> tuple[str, Row]:
        return "snapshot", {"snapshot_id": snapshot_id, "phase": "begin", "as_of": self.at}

    def everything(self) -> list[tuple[str, Row]]:
        """The newest version of each thing ever written."""
        return [
            (topic, things[key][1])
            for (topic, _), things in sorted(self.log.items())
            for key in sorted(things, key=str.encode)
        ]

    def end(self, snapshot_id: str) -> list[tuple[str, Row]]:
        """What holds behind a packet that brings nothing new beside this."""
        topics = [
            {
                "topic": topic, "source": source, "rows": len(things),
                "root": root_of(buckets_of(topic, source, things)),
            }
            for (topic, source), things in sorted(self.log.items())
        ]  # fmt: skip
        end = {"snapshot_id": snapshot_id, "phase": "end", "as_of": self.at, "topics": topics}
        return [("snapshot", end), *self.proofs()]

    def proofs(self) -> list[tuple[str, Row]]:
        return [("proof", self.proof(topic, source)) for topic, source in sorted(self.log)]

    def proof(self, topic: str, source: str) -> Row:
        things = self.log.get((topic, source), {})
        buckets = buckets_of(topic, source, things)
        root = root_of(buckets)
        return {
            "topic": topic, "source": source, "rows": len(things), "root": root, "buckets": buckets,
        }  # fmt: skip

    def repair(self, topic: str, source: str, bucket: int) -> Row:
        things = self.log.get((topic, source), {})
        keys = [key for key in sorted(things, key=str.encode) if bucket_of(key) == bucket]
        return {
            "topic": topic, "source": source, "bucket": bucket, "after": "", "upto": None,
            "keys": keys, "rows": [things[key][1] for key in keys],
        }  # fmt: skip

    def keep(self, topic: str, row: Row) -> None:
        named = identity(topic, row)
        if named is not None:
            source, key, version = named
            things = self.log.setdefault((topic, source), {})
            if key not in things or things[key][0] <= version:
                things[key] = (version, row)

    def _put(self, data: bytes, seq: int) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = file_name(self.stream, seq)
        hidden = self.folder / f".{name}.part"
        with hidden.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(self.folder / name)
        return self.folder / name
