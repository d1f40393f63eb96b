"""What the day's bills prove of single payments, for the centres whose bills were paid."""

from datetime import date, datetime

from tortoise.backends.base.client import BaseDBAsyncClient

from estation.payments.api import ProvenLine, put_evidence
from estation.reconciliation.rules import MATCHED, Kind
from estation.shared.crypto import Vault

_PROVEN = """
select o.transfer_id, o.order_id, t.account_id, t.channel, t.out_trade_no, t.channel_trade_no,
       t.amount_fen, t.at, t.day, f.sha256 as file_digest, t.line_no as file_line
from claim c join theirs t using (line_id) join ours o using (transfer_id)
  join channel_bill_line l on l.id = t.line_id join channel_bill_file f on f.id = l.bill_file_id
where t.day = $1 and o.kind = 'payment' and o.order_id is not null and t.fate = any($2::text[])
order by o.transfer_id
"""


async def tell_centres(db: BaseDBAsyncClient, day: date, *, vault: Vault, now: datetime) -> int:
    """Of every payment that the day's lines match in number, amount and merchant; how many rows.

    Reads the tables `matching` left; joins the caller's transaction.
    """
    rows = await db.execute_query_dict(_PROVEN, [day, [MATCHED, Kind.DAY_BOUNDARY.value]])
    return await put_evidence(db, (ProvenLine(**row) for row in rows), vault=vault, now=now)
