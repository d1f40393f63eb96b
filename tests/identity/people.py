"""Persons and parties for tests; the numbers have right check digits and belong to nobody."""

from datetime import UTC, datetime

from estation.outside.gate.rows import PartyRow
from estation.shared.crypto import Vault

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)
VAULT = Vault(bytes(range(32)))
ANNA = PartyRow(
    role="buyer", name="林晓舟", id_type="1", id_no="11010519491231002X", phone="13800000001"
)
BO = PartyRow(
    role="seller", name="周建国", id_type="1", id_no="440524188001010014", phone="13800000002"
)
