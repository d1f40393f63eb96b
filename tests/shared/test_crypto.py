"""Personal data at rest."""

import hmac
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from estation.shared.crypto import (
    HAND_OVER_SECONDS,
    DataKeys,
    KeyNotHeld,
    Vault,
    read_data_keys,
)
from estation.shared.key_files import KeyFiles
from estation.shared.keyring import KeptKey, new_key, write_keys

VAULT = Vault(bytes(range(32)))


def test_a_sealed_text_opens_only_with_its_key() -> None:
    sealed = VAULT.seal("林晓舟")

    assert VAULT.open(sealed) == "林晓舟"
    with pytest.raises(InvalidTag):
        Vault(bytes(32)).open(sealed)


def test_the_same_text_seals_differently_but_is_found_by_one_index() -> None:
    assert VAULT.seal("x") != VAULT.seal("x")
    assert VAULT.index("x") == VAULT.index("x") != VAULT.index("y")
    assert Vault(bytes(32)).index("x") != VAULT.index("x")


def test_many_texts_are_sealed_each_by_itself() -> None:
    texts = ["林晓舟", "", "13800000001", "林晓舟"]

    sealed = VAULT.seal_all(texts)

    assert [VAULT.open(one) for one in sealed] == texts
    assert len({one[:12] for one in sealed}) == len(texts)  # a nonce is never used twice
    assert VAULT.seal_all([]) == []


def test_an_index_is_hmac_sha_256_so_that_those_stored_before_are_found() -> None:
    key = hmac.digest(bytes(range(32)), b"estation/index/1", "sha256")

    for text in ("", "1:11010519491231002X", "林晓舟" * 100):
        assert VAULT.index(text) == hmac.digest(key, text.encode(), "sha256").hex()


def test_an_altered_byte_is_noticed() -> None:
    sealed = bytearray(VAULT.seal("林晓舟"))
    sealed[-1] ^= 1

    with pytest.raises(InvalidTag):
        VAULT.open(bytes(sealed))


# Successors


def keys(*held: KeptKey, making: int = 0) -> Vault:
    read = read_data_keys(write_keys(held))
    return Vault(lambda: DataKeys(read, read[making]))


FIRST = KeptKey(bytes(range(32)), is_named=False)
SECOND, THIRD = new_key(), new_key()


def test_a_key_of_before_makes_what_it_always_made() -> None:
    same = keys(FIRST)

    assert same.index("x") == VAULT.index("x")
    assert VAULT.open(same.seal("林晓舟")) == "林晓舟"
    assert len(same.seal("")) == 12 + 16


def test_all_keys_of_the_file_open_and_find_and_the_first_one_makes() -> None:
    vault = keys(THIRD, SECOND, FIRST)
    former = [keys(SECOND), keys(FIRST), keys(THIRD)]

    for one in former:
        assert vault.open(one.seal("林晓舟")) == "林晓舟"
        assert vault.open_file(one.seal_file(b"bill")) == b"bill"
        assert one.index("x") in vault.indexes("x")
    assert keys(THIRD).open(vault.seal("林")) == "林"
    assert vault.seal("").startswith(b"k1" + bytes.fromhex(THIRD.key_id))
    assert vault.index("x") == vault.indexes("x")[0] == keys(THIRD).index("x")
    assert (len(vault.index("x")), vault.index("x")[:8]) == (64, THIRD.key_id)
    assert (
        vault.steady_index("x") == keys(FIRST).index("x") == keys(SECOND, FIRST).steady_index("x")
    )


def test_a_value_of_a_key_that_is_not_in_the_file_says_so() -> None:
    for sealed in (keys(SECOND).seal("x"), VAULT.seal("x")):
        with pytest.raises(KeyNotHeld):
            keys(THIRD).open(sealed)
    with pytest.raises(KeyNotHeld):
        keys(THIRD, FIRST).open(keys(SECOND).seal("x"))


@pytest.mark.parametrize("at", [0, 5, 6, 20, -1])
def test_an_altered_byte_of_a_named_value_is_noticed(at: int) -> None:
    sealed = bytearray(keys(SECOND).seal("林晓舟"))
    sealed[at] ^= 1

    for vault in (keys(SECOND), keys(THIRD, SECOND, FIRST)):
        with pytest.raises(InvalidTag):
            vault.open(bytes(sealed))


def test_a_value_cannot_be_moved_under_another_keys_name() -> None:
    only = KeptKey(FIRST.secret, is_named=True)
    sealed = VAULT.seal("x")

    with pytest.raises(InvalidTag):
        keys(only).open(b"k1" + bytes.fromhex(only.key_id) + sealed)


def test_an_older_value_that_looks_like_a_named_one_is_opened_all_the_same() -> None:
    vault = keys(SECOND, FIRST)
    (old,) = [key for key in vault.keys.held if not key.is_named]
    nonce = b"k1" + bytes.fromhex(SECOND.key_id) + bytes(6)
    sealed = nonce + old._cipher.encrypt(nonce, b"x", None)

    assert vault.open(sealed) == "x"


@dataclass
class Machine:
    """A data key's file, how long programs run, and how old the file is by the wall's clock."""

    file: Path
    seconds: float = 0.0
    age: float = 2.0

    def vault(self) -> Vault:
        files = KeyFiles(
            lambda _: self.file.read_bytes(),
            lambda _: self.file,
            monotonic=lambda: self.seconds,
            wall_seconds=lambda: time.time() + self.age,
        )
        return Vault.watching(files, "data.key")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "data.key")
    machine.file.write_bytes(FIRST.secret)
    return machine


def test_a_new_key_opens_at_once_and_makes_when_every_program_has_read_it(
    machine: Machine,
) -> None:
    vault = machine.vault()

    machine.file.write_bytes(write_keys([SECOND, FIRST]))
    machine.seconds = 2
    started_meanwhile = machine.vault()

    for one in (vault, started_meanwhile):
        assert one.open(keys(SECOND).seal("x")) == "x"
        assert one.indexes("x") == (VAULT.index("x"), keys(SECOND).index("x"))
        assert VAULT.open(one.seal("x")) == "x"
    machine.age = HAND_OVER_SECONDS + 1
    for one in (vault, started_meanwhile):
        assert one.indexes("x") == (keys(SECOND).index("x"), VAULT.index("x"))
        assert keys(SECOND).open(one.seal("x")) == "x"


def test_a_program_that_slept_through_the_change_makes_with_the_new_key_at_once(
    machine: Machine,
) -> None:
    """Else it would seal with one that is perhaps being taken out."""
    vault = machine.vault()
    machine.file.write_bytes(write_keys([SECOND, FIRST]))

    machine.seconds = machine.age = 3600

    assert keys(SECOND).open(vault.seal("x")) == "x"


def test_a_half_written_file_changes_nothing_and_a_key_taken_out_is_gone(machine: Machine) -> None:
    vault = machine.vault()

    machine.file.write_bytes(b"2:half")
    machine.seconds = 5
    assert vault.open(VAULT.seal("x")) == "x"
    machine.file.write_bytes(write_keys([SECOND]))
    machine.seconds = 10

    with pytest.raises(KeyNotHeld):
        vault.open(VAULT.seal("x"))
    assert keys(SECOND).open(vault.seal("x")) == "x"


def test_a_third_key_takes_over_from_the_second_and_not_from_the_first(machine: Machine) -> None:
    machine.file.write_bytes(write_keys([SECOND, FIRST]))
    machine.age = 60
    vault = machine.vault()
    assert vault.keys.making is vault.keys.newest

    machine.file.write_bytes(write_keys([THIRD, SECOND, FIRST]))
    machine.seconds = machine.age = 2

    assert keys(SECOND).open(vault.seal("x")) == "x"
