"""Packets sealed by SM2 with SM3, alone and mixed with Ed25519 over one stream.

Vectors: GB/T 32918.5-2017 annex A (signature under the recommended curve) and, where the machine
has it, OpenSSL as a second implementation.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from estation.outside.gate import format as packets
from estation.outside.gate import keys, sm_seals
from estation.outside.gate.errors import Reason
from estation.shared import sm2
from tests.outside.gate_side import PRIVATE, PUBLIC, T0

pytest.importorskip("gmssl_pyx", reason="the extra `sm` is not installed")

SM_PRIVATE, SM_PUBLIC = keys.make_key("sm2-sm3")
POINT = bytes.fromhex(
    "09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020"
    "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13"
)
NUMBER = bytes.fromhex("3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8")
R = bytes.fromhex("F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3")
S = bytes.fromhex("B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA")
SIGNATURE = b"\x30\x46\x02\x21\x00" + R + b"\x02\x21\x00" + S


def sealed(private: bytes, seq: int = 1, previous: str = packets.NO_PREVIOUS) -> packets.Head:
    built = packets.build(
        stream="a-b",
        seq=seq,
        previous=previous,
        lines=[],
        watermark=T0,
        created_at=T0,
        key=keys.load_seal_key(private),
    )
    return packets.read_head(built.manifest + b"\n")


def test_the_standards_example_is_recognised_and_nothing_near_it() -> None:
    peer = sm_seals.Sm2Peer(POINT)

    assert peer.verify(b"message digest", SIGNATURE)
    assert not peer.verify(b"message digesT", SIGNATURE)
    assert not peer.verify(b"message digest", SIGNATURE[:-1] + b"\xab")
    assert not sm_seals.Sm2Peer(POINT[::-1]).verify(b"message digest", SIGNATURE)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        R + S,
        SIGNATURE + b"\0",
        b"\x30\x81\x46" + SIGNATURE[2:],
        b"\x30\x47\x02\x22\x00\x00" + R + SIGNATURE[37:],
        b"\x30\x45\x02\x20" + R + SIGNATURE[37:],
        b"\x31" + SIGNATURE[1:],
        b"\x30\x06\x02\x01\x00\x02\x01\x00",
    ],
    ids=["nothing", "raw", "tail", "long length", "zeros", "negative", "no sequence", "zero"],
)
def test_a_signature_has_one_spelling(other: bytes) -> None:
    assert not sm_seals.Sm2Peer(POINT).verify(b"message digest", other)


def test_what_we_seal_is_recognised_by_its_public_half_only() -> None:
    head = sealed(SM_PRIVATE)
    stranger = keys.load_peer_key(keys.make_key("sm2-sm3")[1])

    packets.check_seal(head, keys.load_peer_key(SM_PUBLIC))

    assert (head.seal.algorithm, len(head.seal.key)) == ("sm2-sm3", 16)
    for other in (stranger, keys.load_peer_key(PUBLIC)):
        with pytest.raises(packets.BadPacket) as refused:
            packets.check_seal(head, other)
        assert refused.value.reason is Reason.bad_seal


def test_a_stream_may_change_its_algorithm_with_its_key() -> None:
    first = sealed(PRIVATE)
    second = sealed(SM_PRIVATE, 2, first.digest)
    third = sealed(PRIVATE, 3, second.digest)

    packets.check_seal(first, keys.load_peer_key(PUBLIC))
    packets.check_seal(second, keys.load_peer_key(SM_PUBLIC))
    packets.check_seal(third, keys.load_peer_key(PUBLIC))

    assert third.manifest.previous == second.digest


def test_key_files_are_written_once_and_read_back(tmp_path: Path) -> None:
    private, public = tmp_path / "own.pem", tmp_path / "public.pem"
    keys.make_pair(private=private, public=public, algorithm="sm2-sm3")
    before = private.read_bytes(), public.read_bytes()

    public.unlink()
    keys.make_pair(private=private, public=public, algorithm="sm2-sm3")

    assert (private.read_bytes(), public.read_bytes()) == before
    assert private.stat().st_mode & 0o077 == 0
    assert (
        keys.load_seal_key(private.read_bytes()).key_id
        == keys.load_peer_key(public.read_bytes()).key_id
    )


def test_halves_of_two_keys_are_no_key() -> None:
    mixed = sm2.private_pem(sm2.Sm2Pair(NUMBER, sm2.generate().point))

    with pytest.raises(ValueError, match="another key's"):
        keys.load_seal_key(mixed)


def test_without_the_wheel_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gmssl_pyx", None)

    for load, pem in ((keys.load_seal_key, SM_PRIVATE), (keys.load_peer_key, SM_PUBLIC)):
        with pytest.raises(ValueError, match=r"estation\[sm\]"):
            load(pem)
    keys.load_seal_key(PRIVATE)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_openssl_recognises_our_seals_and_we_its(tmp_path: Path) -> None:
    private, public = tmp_path / "own.pem", tmp_path / "public.pem"
    data, ours, theirs = tmp_path / "data", tmp_path / "ours", tmp_path / "theirs"
    options = ["-rawin", "-digest", "sm3", "-pkeyopt", "distid:1234567812345678"]
    subprocess.run(["openssl", "genpkey", "-algorithm", "SM2", "-out", private], check=True)
    made = keys.load_seal_key(private.read_bytes())
    keys.make_pair(private=private, public=public)
    data.write_bytes(b"manifest")
    ours.write_bytes(made.sign(b"manifest"))

    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-in", data,
         "-sigfile", ours, *options],
        check=True,
    )  # fmt: skip
    subprocess.run(
        ["openssl", "pkeyutl", "-sign", "-inkey", private, "-in", data, "-out", theirs, *options],
        check=True,
    )

    assert keys.load_peer_key(public.read_bytes()).verify(b"manifest", theirs.read_bytes())
