"""Persons and parties for tests; the numbers have right check digits and belong to nobody."""

import re
from datetime import UTC, datetime

from estation.identity.api import Speaker
from estation.outside.gate.rows import PartyRow
from estation.outside.sms import SmsFailed
from estation.shared.crypto import Vault

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)
VAULT = Vault(bytes(range(32)))
CENTRE = Speaker("jc-center", 4)
COUNTY, OTHER_COUNTY = Speaker("lj-county", 6), Speaker("qs-county", 6)
ANNA = PartyRow(
    role="buyer", name="林晓舟", id_type="1", id_no="11010519491231002X", phone="13800000001"
)
BO = PartyRow(
    role="seller", name="周建国", id_type="1", id_no="440524188001010014", phone="13800000002"
)


class Sms:
    """Remembers what it was asked to send."""

    def __init__(self, *, fails: bool = False) -> None:
        self.sent: list[tuple[str, str]] = []
        self._fails = fails

    async def send(self, *, phone: str, text: str) -> None:
        self.sent.append((phone, text))
        if self._fails:
            raise SmsFailed

    @property
    def code(self) -> str:
        found = re.search(r"\d{6}", self.sent[-1][1])
        assert found is not None
        return found.group()
