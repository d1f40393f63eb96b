"""The last reckoning of a cohort: our books against what the channels remember, to the fen."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from tortoise import Tortoise

from estation.payments import rules
from estation.simulation.channels import Paid

_UNFINISHED = """
select (select count(*) from pay_order where state = 'open')
     + (select count(*) from pay_attempt where state in ('opening', 'open', 'abandoned'))
     + (select count(*) from pay_refund where state in ('approved', 'processing'))
     + (select count(*) from outbox_message where sent_at is null)
     + (select count(*) from pay_notice where handled_at is null)
     + (select count(*) from ledger_open_hold) as n
"""

_EXPECTED = """
select account, (sum(debit_fen) - sum(credit_fen))::bigint as fen from ledger_entry
where starts_with(account, 'hold_') group by account having sum(debit_fen) <> sum(credit_fen)
order by account
"""

_CLEARING = """
select substr(account, length('channel_clearing:') + 1) as account_id,
       (sum(debit_fen) - sum(credit_fen))::bigint as fen
from ledger_entry where account like 'channel\\_clearing:%' group by account
"""

_ENDS = """
select t.kind, (select count(*) from incident i where i.state = 'open'
                and i.channel_trade_no = t.channel_no and i.account_id = $2) as open_incidents,
       (select coalesce(sum(r.amount_fen), 0)::bigint from pay_refund r
        where r.arrival_id = t.id and r.state = 'succeeded') as refunded_fen,
       (select coalesce(sum(s.amount_fen), 0)::bigint from outside_settlement s
        where s.arrival_id = t.id and s.state = 'approved') as settled_fen
from ledger_transfer t where t.idempotency_key = $1
"""


async def is_anything_unfinished() -> bool:
    """True while an order, attempt, refund, message, notice or hold still has work waiting."""
    (row,) = await _rows(_UNFINISHED)
    return bool(row["n"])


async def faults(successes: Iterable[Paid]) -> list[str]:
    """Every success must have one end, and each clearing account the channel's own balance. All
    orders have ended: nothing is expected any more."""
    successes = list(successes)
    found = [fault for paid in successes if (fault := await _fault_of(paid))]
    ours = {row["account_id"]: row["fen"] for row in await _rows(_CLEARING)}
    theirs: dict[str, int] = defaultdict(int)
    for paid in successes:
        theirs[paid.account_id] += paid.amount_fen - paid.given_back_fen()
    for account in sorted(ours.keys() | theirs.keys()):
        if ours.get(account, 0) != theirs[account]:
            found.append(f"{account}: ours {ours.get(account, 0)}, channel {theirs[account]}")
    found += [f"still expected: {row['account']} {row['fen']}" for row in await _rows(_EXPECTED)]
    return found


async def _fault_of(paid: Paid) -> str:
    """Why this success has not exactly one end (applied, given away, owned); "" when it has.
    Given away: refunded, or what is not was settled outside by two persons."""
    key = rules.arrival_key(paid.account_id, paid.trade_no)
    ends = await _rows(_ENDS, key, paid.account_id)
    if len(ends) != 1:
        return f"{paid.out_trade_no}: {len(ends)} arrivals in the ledger"
    (end,) = ends
    if end["refunded_fen"] != paid.given_back_fen():
        return f"{paid.out_trade_no}: refunded {end['refunded_fen']}, {paid.given_back_fen()} there"
    applied = end["kind"] == rules.Posting.PAYMENT
    given_away = end["refunded_fen"] + end["settled_fen"] == paid.amount_fen and not applied
    owned = not applied and not given_away and end["open_incidents"] > 0
    if applied + given_away + owned != 1:
        return f"{paid.out_trade_no}: no end: {end}"
    return ""


async def _rows(sql: str, *values: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return found
