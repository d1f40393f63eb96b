"""Vaults with several keys: the one of `tests.identity.people.VAULT`, and its successor."""

from estation.shared.crypto import DataKeys, Vault, read_data_keys
from estation.shared.keyring import KeptKey, write_keys

OLD = KeptKey(bytes(range(32)), is_named=False)
NEW = KeptKey(b"n" * 32, is_named=True)


def vault_of(*held: KeptKey, making: int = 0) -> Vault:
    """Newest first; `making` is the place of the key that seals."""
    read = read_data_keys(write_keys(held))
    return Vault(lambda: DataKeys(read, read[making]))


BOTH = vault_of(NEW, OLD)
NOT_YET = vault_of(NEW, OLD, making=1)
"""While programs may still be about to read the file."""
AFTER = vault_of(NEW)
