"""Writes the specification's test vectors: `python -m tests.outside.gate_vectors`.

The packets are made by the independent writer (`tiny_writer`) of the examples in SPEC.md; the
worked example in SPEC.md is filled in from them.
"""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from estation.shared import sm2
from tests.outside import gate_document, tiny_writer
from tests.outside.gate_document import SPEC, VECTORS

STREAM = "jc-center-online"
AT = "2026-03-02T09:00:30Z"
SEED = bytes(range(32))
SM2_NUMBER = bytes.fromhex("3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8")
CANONICAL: list[Any] = [
    {},
    {"b": 1, "a": [True, False, None], "": ""},
    {"林": "晓舟", "é": "/\x7f\u2028", "Z": '"\\\b\f\n\r\t\x01\x1f'},
    {"\U0001f3e0": 1, "\uffff": -1, "a": 18446744073709551615, "A": -9223372036854775808},
]
_VECTOR = re.compile(r"```text vector=(?P<path>\S+)\n(?P<text>.*?)\n```", re.DOTALL)


def main() -> None:
    shutil.rmtree(VECTORS, ignore_errors=True)
    document = gate_document.text()
    writer = write_stream(VECTORS / "stream", document)
    write_keys(VECTORS / "keys")
    vectors = describe(VECTORS / "stream", document, writer)
    text = json.dumps(vectors, indent=1, ensure_ascii=False)
    (VECTORS / "vectors.json").write_text(text + "\n", encoding="utf-8")
    SPEC.write_text(fill_in(document, vectors), encoding="utf-8")


def fill_in(document: str, vectors: dict[str, Any]) -> str:
    """The document with every quoted vector as it is."""
    return _VECTOR.sub(
        lambda match: f"```text vector={match['path']}\n{quoted(vectors, match['path'])}\n```",
        document,
    )


def quoted(vectors: dict[str, Any], path: str) -> str:
    value: Any = vectors
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    if isinstance(value, dict):
        return "\n".join(f"{name}: {one}" for name, one in value.items())
    return str(value)


def write_stream(folder: Path, document: str) -> tiny_writer.Writer:
    """Six packets: the register, a bill, a heartbeat, a snapshot with proofs; by SM2: a bill
    revised with fields and topics nobody knows, and a repair with its proof."""
    rows = {topic: json.loads(text) for topic, text in gate_document.examples(document)}
    writer = tiny_writer.Writer(folder, STREAM, tiny_writer.Ed25519Key(SEED), at=AT)
    register = ("unit", "right", "restriction", "certificate", "case", "case_event")
    writer.write(*((topic, rows[topic]) for topic in register))
    second = {**rows["fee_bill"], "source_id": "F000002", "bill_no": "JF00000002"}
    writer.write(("fee_bill", rows["fee_bill"]), ("fee_bill", second))
    writer.write()
    writer.write(*writer.snapshot("019cadc6-9a80-7729-a3a0-f89c8cd9ad11"))
    writer.key = tiny_writer.Sm2Key(SM2_NUMBER)
    revised = {
        **rows["fee_bill"],
        "version": 2,
        "title": "存量房买卖税费（更正）",
        "later": {"n": 1},
    }
    writer.write(("fee_bill", revised), ("weather", {"sky": "晴"}))
    bucket = tiny_writer.bucket_of("F000001")
    writer.write(
        ("repair", writer.repair("fee_bill", "jc-center", bucket)),
        ("proof", writer.proof("fee_bill", "jc-center")),
    )
    return writer


def write_keys(folder: Path) -> None:
    folder.mkdir(parents=True)
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    pair = sm2.Sm2Pair(SM2_NUMBER, tiny_writer.Sm2Key(SM2_NUMBER).public)
    files = {
        "ed25519.private.pem": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "ed25519.public.pem": key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ),
        "sm2.private.pem": sm2.private_pem(pair),
        "sm2.public.pem": sm2.public_pem(pair.point),
    }
    for name, pem in files.items():
        (folder / name).write_bytes(pem)


def describe(folder: Path, document: str, writer: tiny_writer.Writer) -> dict[str, Any]:
    """Every value on the way, for whoever looks for the step that went wrong."""
    return {
        "canonical": [
            {"value": value, "hex": tiny_writer.canonical(value).hex()} for value in CANONICAL
        ],
        "keys": [
            {
                "algorithm": key.algorithm,
                "private_hex": private.hex(),
                "public_hex": key.public.hex(),
                "key_id": key.key_id,
            }
            for key, private in (
                (tiny_writer.Ed25519Key(SEED), SEED),
                (tiny_writer.Sm2Key(SM2_NUMBER), SM2_NUMBER),
            )
        ],
        "packets": [describe_packet(path) for path in sorted(folder.iterdir())],
        "rows": {
            topic: describe_row(topic, json.loads(text))
            for topic, text in gate_document.examples(document)
            if tiny_writer.identity(topic, json.loads(text))
        },
        "merkle": {
            "topic": "fee_bill",
            "source": "jc-center",
            "keys": sorted(writer.log["fee_bill", "jc-center"]),
            "buckets": {
                str(number): digest
                for number, digest in enumerate(writer.proof("fee_bill", "jc-center")["buckets"])
                if digest != "0" * 64
            },
            "root": writer.proof("fee_bill", "jc-center")["root"],
            "root_of_nothing": tiny_writer.root_of(["0" * 64] * 256),
            "example": describe_bucket(writer, "fee_bill", "jc-center", "F000001"),
        },
    }


def describe_packet(path: Path) -> dict[str, Any]:
    manifest, _, body = path.read_bytes().partition(b"\n")
    fields = json.loads(manifest)
    seal = fields.pop("seal")
    signed = tiny_writer.canonical(fields)
    return {
        "file": path.name,
        "manifest": manifest.decode(),
        "signed": signed.decode(),
        "digest": hashlib.sha256(signed).hexdigest(),
        "signature_hex": base64.b64decode(seal["signature"]).hex(),
        "body_hex": body.hex(),
    }


def describe_row(topic: str, row: dict[str, Any]) -> dict[str, Any]:
    named = tiny_writer.identity(topic, row)
    assert named is not None
    source, key, version = named
    digest = tiny_writer.row_digest(row)
    return {
        "source": source,
        "key": key,
        "version": version,
        "row_digest": digest.hex(),
        "leaf": tiny_writer.leaf_of(topic, source, key, version, digest).hex(),
        "bucket": tiny_writer.bucket_of(key),
    }


def describe_bucket(
    writer: tiny_writer.Writer, topic: str, source: str, key: str
) -> dict[str, Any]:
    """From a row that is alone in its bucket to the root."""
    version, row = writer.log[topic, source][key]
    proof = writer.proof(topic, source)
    bucket = tiny_writer.bucket_of(key)
    digest = tiny_writer.row_digest(row)
    return {
        "key": key,
        "version": version,
        "row_digest": digest.hex(),
        "leaf": tiny_writer.leaf_of(topic, source, key, version, digest).hex(),
        "bucket": bucket,
        "bucket_digest": proof["buckets"][bucket],
        "root": proof["root"],
    }


if __name__ == "__main__":
    main()
