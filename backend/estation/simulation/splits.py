"""Random splits of money among payees, there and back: exact to the fen, fair within one, and the
same whatever the order in which the rows come."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from estation.ledger.api import PayeeMovement
from estation.payments.refund_rules import Share, covers, left_of, take_in_order
from estation.payments.splitting import (
    Instructed,
    Instruction,
    corrections_of,
    fee_key,
    instructions_of,
)
from estation.shared.fields import MAX_FEN

PAYEES: Final = ("treasury", "non_tax", "maintenance_fund", "broadcasting", "surveyors", "water")
TOLD_EVERY: Final = 1000
MOST_REFUNDS: Final = 3
_AT: Final = datetime(2026, 8, 3, tzinfo=UTC)


class NotExact(Exception):
    """A split that is not; the text has its numbers."""


@dataclass(frozen=True, slots=True)
class Split:
    """One payment: what each payee gets of each bill, and the channel's fee, told late or not."""

    number: int
    shares: tuple[Share, ...]
    fee_fen: int
    later_fee_fen: int


def run(*, count: int, seed: int, told: Callable[[int], None] = lambda done: None) -> int:
    """How many partial refunds the splits met. Raises NotExact for the first that is not right."""
    chance = random.Random(f"splits:{seed}")
    refunds = 0
    for number in range(count):
        split = _some_split(number, chance)
        _check_instructions(split)
        refunds += _check_refunds(split, chance)
        if (number + 1) % TOLD_EVERY == 0:
            told(TOLD_EVERY)
    return refunds


def _some_split(number: int, chance: random.Random) -> Split:
    most = chance.choice((3, 1_000, 1_000_000, MAX_FEN // 100))
    shares = tuple(
        Share(UUID(int=chance.getrandbits(128)), payee, chance.randint(1, most))
        for payee in chance.sample(PAYEES, chance.randint(1, len(PAYEES)))
        for _ in range(chance.choice((1, 1, 2)))
    )
    total = sum(share.amount_fen for share in shares)
    fee = chance.choice((0, 1, chance.randint(0, total), total * 6 // 1000))
    return Split(number, shares, fee, chance.choice((fee, fee + 1, max(fee - 1, 0), 0)))


def _movements(split: Split) -> list[PayeeMovement]:
    owed: dict[str, int] = defaultdict(int)
    for share in split.shares:
        owed[share.payee_code] += share.amount_fen
    whole = PayeeMovement(
        transfer_id=UUID(int=split.number),
        idempotency_key="arrival:wechat_pay:1:4200",
        kind="payment",
        our_no="FY1",
        channel_no="4200",
        occurred_at=_AT,
        payee_code="",
        fen=0,
    )
    return [replace(whole, payee_code=payee, fen=fen) for payee, fen in owed.items()]


def _check_instructions(split: Split) -> None:
    movements = _movements(split)
    key = fee_key("4200", is_refund=False)
    lines = instructions_of(movements, {key: split.fee_fen})
    _check_shares(split, split.fee_fen, movements, [line.fee_fen for line in lines])
    if [line.amount_fen for line in lines] != [one.fen for one in movements]:
        raise NotExact(f"{split}: other amounts than the books'")
    total = sum(one.fen for one in movements)
    if sum(line.net_fen for line in lines) != total - split.fee_fen:
        raise NotExact(f"{split}: payees and fee are not the whole")
    told = [Instructed(one, line.fee_fen) for one, line in zip(movements, lines, strict=True)]
    _check_corrections(split, told, {key: split.later_fee_fen})


def _check_corrections(split: Split, told: Sequence[Instructed], fees: dict[str, int]) -> None:
    """With the corrections everybody was told what they would have been told at once."""
    corrected: dict[str, Instruction] = {
        line.payee_code: line for line in corrections_of(told, fees)
    }
    shares = [
        one.fee_fen + (corrected[payee].fee_fen if (payee := one.movement.payee_code) in corrected
                       else 0)
        for one in told
    ]  # fmt: skip
    _check_shares(split, split.later_fee_fen, [one.movement for one in told], shares)
    if any(line.amount_fen or not line.fee_fen for line in corrected.values()):
        raise NotExact(f"{split}: a correction of nothing, or of more than the fee")


def _check_shares(
    split: Split, fee_fen: int, movements: Sequence[PayeeMovement], shares: Sequence[int]
) -> None:
    """Largest remainder, by what it promises and not by how it is worked out."""
    whole = sum(one.fen for one in movements)
    if sum(shares) != fee_fen:
        raise NotExact(f"{split}: shares {shares} are not {fee_fen}")
    over = []
    for place, (one, share) in enumerate(zip(movements, shares, strict=True)):
        below, left = divmod(fee_fen * one.fen, whole)
        if share not in (below, below + 1) or (share > below and not left):
            raise NotExact(f"{split}: share {share} of {fee_fen} is not within a fen of fair")
        over.append((-left, place, share > below))
    given = [got for _, _, got in sorted(over)]
    if given != sorted(given, reverse=True):
        raise NotExact(f"{split}: a smaller remainder was rounded up before a larger one")


def _check_refunds(split: Split, chance: random.Random) -> int:
    """Given back in parts until nothing is left: no payee beyond what it got, none twice."""
    left, refunds = list(split.shares), 0
    while left:
        there = sum(share.amount_fen for share in left)
        amount = there if refunds == MOST_REFUNDS - 1 else chance.randint(1, there)
        taken = take_in_order(amount, left)
        if not refunds and take_in_order(amount, chance.sample(left, len(left))) != taken:
            raise NotExact(f"{split}: another order of rows, another refund of {amount}")
        if sum(share.amount_fen for share in taken) != amount or not covers(left, taken):
            raise NotExact(f"{split}: a refund of {amount} takes {taken} of {left}")
        left, refunds = left_of(left, taken), refunds + 1
        if sum(share.amount_fen for share in left) != there - amount:
            raise NotExact(f"{split}: {there} less {amount} leaves {left}")
    return refunds
