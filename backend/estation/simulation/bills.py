"""The centre's bills, and the merchants of those who receive their money."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from estation.outside.gate.rows import FeeBillRow, FeeItemRow, PartyRow
from estation.outside.pay_channels import Channel
from estation.settings import Settings
from estation.shared.clock import BEIJING

SOURCE: Final = "jc-center"
REGION: Final = "360101"
PAYEES: Final = ("treasury", "non_tax", "maintenance_fund")
COMBINING: Final = "wechat_combine:1900000100"

OWN_MERCHANTS: Final[Mapping[str, Mapping[str, str]]] = {
    "collected": {},
    "partly combined": {"treasury": "wechat_pay:1900000111", "non_tax": "wechat_pay:1900000112"},
    "combined": {
        "treasury": "wechat_pay:1900000111",
        "non_tax": "wechat_pay:1900000112",
        "maintenance_fund": "wechat_pay:1900000113",
    },
}
"""By kind of world: payee -> its own merchant at WeChat Pay. A citizen whose payees all have one
pays them at once (合单); any other order is collected by the city."""


def settings_of(kind: str) -> Settings:
    """The city's settings, with the merchants of this kind of world."""
    settings = Settings.read()
    own = OWN_MERCHANTS[kind]
    payees = [
        payee.model_copy(
            update={"merchants": {Channel.WECHAT_PAY: own[payee.code]} if payee.code in own else {}}
        )
        for payee in settings.payees
    ]
    combining = {Channel.WECHAT_PAY: COMBINING} if own else {}
    return settings.model_copy(update={"payees": payees, "combining_accounts": combining})


@dataclass(slots=True)
class CentreBill:
    """A bill as the centre knows it: versions it issued, and what they came to."""

    source_id: str
    version: int
    shares: dict[str, int]
    state: str

    @property
    def total_fen(self) -> int:
        return sum(self.shares.values())


def bill_row(bill: CentreBill, world: int, now: datetime) -> FeeBillRow:
    return FeeBillRow(
        source=SOURCE,
        source_id=bill.source_id,
        version=bill.version,
        region=REGION,
        bill_no=f"B{bill.source_id}"[:32],
        case_source_id=f"case-{world}",
        title="存量房买卖税费",
        payer=PartyRow(role="buyer", name="林晓舟", id_type="1", id_no="sim", phone="13800000001"),
        state="withdrawn" if bill.state == "withdrawn" else "issued",
        issued_at=now,
        due_on=date(2030, 1, 1) if now.astimezone(BEIJING).year < 2030 else None,
        total_fen=bill.total_fen,
        items=[
            FeeItemRow(
                seq=seq, code="deed_tax", name="契税", payee_code=payee, base_fen=None, rate="",
                relief_fen=0, amount_fen=amount_fen, formula="", legal_basis="",
            )
            for seq, (payee, amount_fen) in enumerate(bill.shares.items(), start=1)
        ],
    )  # fmt: skip
