"""A file with a key of our own, or several while one takes the other's place."""

import pytest

from estation.outside.gate.keys import each_pem, load_peer_key, make_key
from estation.shared.keyring import KeptKey, id_of, new_key, read_keys, read_secrets, write_keys

OLD, NEW = KeptKey(b"o" * 32, is_named=False), KeptKey(b"n" * 32, is_named=True)


def test_thirty_two_bytes_are_one_key_whatever_they_say() -> None:
    assert read_keys(b"o" * 32) == (OLD,)
    assert read_keys(b"2:" + b"\n" * 30) == (KeptKey(b"2:" + b"\n" * 30, is_named=False),)


def test_a_key_that_was_always_longer_stays_what_it_was() -> None:
    text = b"6f" * 32 + b"\n"

    assert read_secrets(text) == (text,)
    assert read_secrets(write_keys([NEW, *read_keys(text)])) == (NEW.secret, text)


def test_a_list_is_read_newest_first_with_remarks_for_people() -> None:
    written = write_keys([NEW, OLD])

    assert written == b"2:" + b"6e" * 32 + b"\n1:" + b"6f" * 32 + b"\n"
    assert read_keys(b"# since November\n\n" + written.upper().replace(b"\n", b"\r\n")) == (
        NEW,
        OLD,
    )


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"o" * 31,
        b"# nothing but a remark in more than 32 bytes",
        write_keys([NEW])[:-3],
        write_keys([NEW, OLD])[:-3],
        write_keys([NEW])[:20],
        write_keys([NEW]) + b"3:" + b"6f" * 32,
        b"2:" + b"zz" * 32,
        b"2:" + b"6e" * 31,
        write_keys([NEW, NEW]),
        write_keys([new_key() for _ in range(6)]),
    ],
)
def test_a_file_of_another_shape_is_refused_and_not_quoted(broken: bytes) -> None:
    with pytest.raises(ValueError, match="key") as refused:
        read_keys(broken)

    assert "6e6e" not in str(refused.value)


def test_a_key_is_told_apart_by_its_id_and_never_shown() -> None:
    assert NEW.key_id == id_of(b"n" * 32) != OLD.key_id
    assert len(NEW.key_id) == 8
    assert "nnn" not in repr(NEW)
    assert new_key() != new_key()


def test_a_file_of_public_keys_may_hold_several() -> None:
    publics = [make_key()[1] for _ in range(2)]

    assert each_pem(b"former\n" + b"".join(publics)) == publics
    assert [load_peer_key(pem).algorithm for pem in each_pem(b"".join(publics))] == ["ed25519"] * 2
    assert each_pem(b"no key") == [b"no key"]
