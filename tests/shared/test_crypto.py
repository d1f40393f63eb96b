"""Personal data at rest."""

import hmac

import pytest
from cryptography.exceptions import InvalidTag

from estation.shared.crypto import Vault

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
