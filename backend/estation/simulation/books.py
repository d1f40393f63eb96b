"""The last reckoning of a cohort: our books against what the channels remember, to the fen."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from typing import Any, Final

from tortoise import Tortoise

from estation.payments import rules
from estation.simulation.channels import Paid
from estation.simulation.hazards import ODD_MONEY

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

_ODD_MONEY = """
select case when i.out_trade_no ~ '-[0-9]{2}$' then 'combined_' else '' end || i.kind as name,
       count(*) as n
from incident i where i.kind = any($1::text[]) group by 1
"""

_ENDS = """
select case when exists (select from ledger_transfer later
                         where later.idempotency_key = 'applied:' || t.idempotency_key)
            then 'payment' else t.kind end as kind,
       (select count(*) from incident i where i.state = 'open'
        and i.channel_trade_no = t.channel_no and i.account_id = $2
        and not i.evidence ? 'reconciled_day') as open_incidents,
       (select coalesce(sum(r.amount_fen), 0)::bigint from pay_refund r
        where r.arrival_id = t.id and r.state = 'succeeded') as refunded_fen,
       (select coalesce(sum(s.amount_fen), 0)::bigint from outside_settlement s
        where s.arrival_id = t.id and s.state = 'approved') as settled_fen,
       (select coalesce(sum(c.amount_fen), 0)::bigint from claim_settlement c
        where c.arrival_id = t.id and c.state = 'approved') as ended_claims_fen,
       (select array_agg(substr(e.account, length('payee_payable:') + 1))
        from ledger_transfer own join ledger_entry e on e.transfer_id = own.id
        where own.idempotency_key in (t.idempotency_key, 'applied:' || t.idempotency_key)
          and e.account like 'payee\\_payable:%') as payees
from ledger_transfer t where t.idempotency_key = $1
"""


_MONEY: Final = {
    "ledger_transfer": "*",
    "ledger_entry": "*",
    "bill": "id, state, version, paid_version, paid_at",
    "pay_order": "*",
    "pay_order_bill": "*",
    "pay_attempt": "id, state, paid_fen, paid_at, channel_trade_no, closed_at, close_reason",
    "pay_refund": "id, state, amount_fen, taken_from, tries, sent_at, ended_at, version",
    "outbox_message": "id, topic, body",
    "incident": "*",
    "incident_action": "*",
}
"""By table the columns that say where money is, tell others of it, or who looks after it."""

_CLAIMED = """
select t.id::text as arrival, s.bill_id::text || ' ' || s.payee_code as share
from ledger_transfer t
join incident i on i.kind = 'refund_overpaid' and i.state = 'open'
    and i.channel_trade_no = t.channel_no
    and t.idempotency_key = 'arrival:' || i.account_id || ':' || i.channel_trade_no
left join pay_order_split s on s.order_id = t.order_id
"""

BROKEN_BY_A_CLAIM = frozenset(
    {"no_arrival_is_given_back_beyond_its_amount", "no_payee_gives_back_more_than_it_got"}
)
"""What cannot hold while money that was given back twice has not come back."""


async def not_for_a_claim(broken: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The broken invariants, less what an open claim breaks of that very money."""
    if not BROKEN_BY_A_CLAIM & broken.keys():
        return dict(broken)
    rows = await _rows(_CLAIMED)
    claimed = {row["arrival"] for row in rows} | {row["share"] for row in rows}
    left = {
        name: [row for row in found if name not in BROKEN_BY_A_CLAIM or row not in claimed]
        for name, found in broken.items()
    }
    return {name: found for name, found in left.items() if found}


async def money() -> dict[str, str]:
    """A digest of every row of money, by table."""
    return {
        table: (
            await _rows(
                f"""select md5(coalesce(string_agg(t::text, '|' order by t::text), '')) as rows
                    from (select {columns} from {table}) t"""  # noqa: S608  (our own constants)
            )
        )[0]["rows"]
        for table, columns in _MONEY.items()
    }


async def is_anything_unfinished() -> bool:
    """True while an order, attempt, refund, message, notice or hold still has work waiting."""
    (row,) = await _rows(_UNFINISHED)
    return bool(row["n"])


async def odd_money() -> Counter[str]:
    """How much money came that fitted nothing, by what was odd about it."""
    rows = await _rows(_ODD_MONEY, list(ODD_MONEY))
    return Counter({row["name"]: row["n"] for row in rows})


async def faults(
    successes: Iterable[Paid],
    *,
    payees: Mapping[str, str],
    noes: Set[str],
    fees: Mapping[str, int] | None = None,
) -> list[str]:
    """Every success must have one end, all parts of a combined one the same kind of end, each
    merchant's clearing account the channel's own balance, and a refund is closed only where the
    channel said no; all orders have ended, so nothing is expected any more. `payees`: by
    the merchant they own; `noes`: refund numbers; `fees`: what each merchant's channel kept."""
    successes = list(successes)
    ends = {paid.out_trade_no: await _rows(_ENDS, *_named(paid)) for paid in successes}
    found = [fault for paid in successes if (fault := _fault_of(paid, ends[paid.out_trade_no]))]
    found += _strangers(successes, ends, payees)
    found += _torn(successes, ends)
    closed = await _rows("select refund_no from pay_refund where state = 'closed' order by 1")
    found += [
        f"{row['refund_no']}: closed, and no channel said no"
        for row in closed
        if row["refund_no"] not in noes
    ]
    ours = {row["account_id"]: row["fen"] for row in await _rows(_CLEARING)}
    theirs = defaultdict(int, {account: -fen for account, fen in (fees or {}).items()})
    for paid in successes:
        theirs[paid.account_id] += paid.amount_fen - paid.given_back_fen()
    for account in sorted(ours.keys() | theirs.keys()):
        if ours.get(account, 0) != theirs[account]:
            found.append(f"{account}: ours {ours.get(account, 0)}, channel {theirs[account]}")
    found += [f"still expected: {row['account']} {row['fen']}" for row in await _rows(_EXPECTED)]
    return found


def _named(paid: Paid) -> tuple[str, str]:
    return rules.arrival_key(paid.account_id, paid.trade_no), paid.account_id


Ends = list[dict[str, Any]]


def _fault_of(paid: Paid, ends: Ends) -> str:
    """Why this success has not exactly one end (applied, given away, owned); "" when it has.
    Given away: refunded, or what is not was settled outside by two persons. What was given away
    twice came back, or was given up, by two persons as well."""
    if len(ends) != 1:
        return f"{paid.out_trade_no}: {len(ends)} arrivals in the ledger"
    (end,) = ends
    if end["refunded_fen"] != paid.given_back_fen():
        return f"{paid.out_trade_no}: refunded {end['refunded_fen']}, {paid.given_back_fen()} there"
    applied = end["kind"] == rules.Posting.PAYMENT
    given_fen = end["refunded_fen"] + end["settled_fen"] - end["ended_claims_fen"]
    given_away = given_fen == paid.amount_fen and not applied
    owned = not applied and not given_away and end["open_incidents"] > 0
    if applied + given_away + owned != 1:
        return f"{paid.out_trade_no}: no end: {end}"
    return ""


def _strangers(
    successes: Iterable[Paid], ends: Mapping[str, Ends], payees: Mapping[str, str]
) -> list[str]:
    """Money at a payee's own merchant that the books owe to somebody else."""
    return [
        f"{paid.out_trade_no}: at {paid.account_id}, owed to {end['payees']}"
        for paid in successes
        for end in ends[paid.out_trade_no]
        if paid.account_id in payees
        and end["kind"] == rules.Posting.PAYMENT
        and set(end["payees"] or ()) != {payees[paid.account_id]}
    ]


def _torn(successes: Iterable[Paid], ends: Mapping[str, Ends]) -> list[str]:
    """Combined payments of which one part was applied and another set aside."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for paid in successes:
        kinds[paid.whole_no].update(end["kind"] for end in ends[paid.out_trade_no])
    return [f"{whole}: in pieces: {sorted(of)}" for whole, of in kinds.items() if len(of) > 1]


async def _rows(sql: str, *values: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return found
