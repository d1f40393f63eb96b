"""What a transfer must be before it may be posted, and what undoes it. Pure."""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from msgspec import Struct

from estation.ledger.errors import NotAReversal, NotATransfer
from estation.ledger.rules.accounts import account_kind, hold_expected, hold_payee
from estation.shared import ids
from estation.shared.fields import MAX_FEN

REVERSAL_KIND = "reversal"
HOLD_KIND = "hold"
HOLD_RELEASE_KIND = "hold_release"

_UNDOES: Mapping[str, bool] = {REVERSAL_KIND: False, HOLD_RELEASE_KIND: True}
"""The kinds that name the transfer they undo: whether that must be a hold."""

_KIND = re.compile(r"[a-z_]{1,32}")


class Leg(Struct, frozen=True):
    """One entry: fen on exactly one side."""

    account: str
    debit_fen: int = 0
    credit_fen: int = 0


class TransferInput(Struct, frozen=True, kw_only=True):
    """One movement of money to post. `id` is a UUID's text, `occurred_at` the channel's clock.

    `reverses_id` names the standing transfer that this one undoes to the fen.
    """

    id: str
    idempotency_key: str
    kind: str
    region: str
    order_id: UUID | None
    our_no: str
    channel_no: str
    occurred_at: datetime
    legs: Sequence[Leg]
    reverses_id: str | None = None


class PostedEntry(Struct, frozen=True):
    """A leg as it stands in the books."""

    id: str
    account: str
    debit_fen: int
    credit_fen: int


class PostedTransfer(Struct, frozen=True, kw_only=True):
    """A transfer as it stands in the books, entries ordered by account. Ids are UUID texts."""

    id: str
    idempotency_key: str
    input_hash: str
    kind: str
    region: str
    order_id: str | None
    our_no: str
    channel_no: str
    occurred_at: datetime
    posted_at: datetime
    reverses_id: str | None
    entries: Sequence[PostedEntry]

    @property
    def debit_fen(self) -> int:
        return sum(entry.debit_fen for entry in self.entries)

    @property
    def is_balanced(self) -> bool:
        """At least two entries, and both sides the same."""
        credit = sum(entry.credit_fen for entry in self.entries)
        return len(self.entries) > 1 and self.debit_fen == credit


@functools.lru_cache(maxsize=256)
def is_kind(name: str) -> bool:
    return _KIND.fullmatch(name) is not None


def check(transfer: TransferInput) -> None:
    """Raises NotATransfer unless it is balanced, above zero and names known accounts.

    Memo accounts stand among themselves: no money moves between them and the others.
    """
    debit = credit = memos = 0
    for leg in transfer.legs:
        left, right = leg.debit_fen, leg.credit_fen
        if left < 0 or right < 0 or (left > 0) == (right > 0):
            raise NotATransfer("a leg has exactly one side above zero")
        memos += account_kind(leg.account).is_memo
        debit += left
        credit += right
    if debit != credit or not 0 < debit <= MAX_FEN:
        raise NotATransfer(f"not balanced: {debit} debit, {credit} credit")
    if len({leg.account for leg in transfer.legs}) != len(transfer.legs):
        raise NotATransfer("an account occurs twice")
    if memos not in (0, len(transfer.legs)):
        raise NotATransfer("memo accounts stand among themselves")
    if not is_kind(transfer.kind) or not 0 < len(transfer.idempotency_key) <= 160:
        raise NotATransfer("kind or key is malformed")
    if (transfer.kind in _UNDOES) != (transfer.reverses_id is not None):
        raise NotATransfer("what undoes a transfer names it, and nothing else does")


def input_hash(transfer: TransferInput) -> str:
    """SHA-256 over what the transfer says, injectively encoded; its row id is not part of it."""
    said: list[Any] = [
        transfer.kind,
        transfer.region,
        str(transfer.order_id) if transfer.order_id else None,
        transfer.our_no,
        transfer.channel_no,
        transfer.occurred_at.astimezone(UTC).isoformat(),
        sorted([leg.account, leg.debit_fen, leg.credit_fen] for leg in transfer.legs),
    ]
    if transfer.reverses_id is not None:
        said.append(transfer.reverses_id)
    return hashlib.sha256(orjson.dumps(said)).hexdigest()


def reversal_key(original_id: str) -> str:
    return f"reversal:{original_id}"


def hold_key(order_no: str) -> str:
    return f"hold:{order_no}"


def hold_release_key(order_no: str) -> str:
    return f"hold_release:{order_no}"


def mirror(original: PostedTransfer, *, kind: str, key: str, now: datetime) -> TransferInput:
    """What undoes a standing transfer: the same amounts on the other sides, on the same numbers.

    `now` becomes its `occurred_at`: the original stays true of its day. Raises NotAReversal when
    the original undoes something itself.
    """
    undoing = TransferInput(
        id=str(ids.row_id(now)),
        idempotency_key=key,
        kind=kind,
        region=original.region,
        order_id=UUID(original.order_id) if original.order_id else None,
        our_no=original.our_no,
        channel_no=original.channel_no,
        occurred_at=now,
        legs=[
            Leg(entry.account, debit_fen=entry.credit_fen, credit_fen=entry.debit_fen)
            for entry in original.entries
        ],
        reverses_id=original.id,
    )
    check_mirror(original, undoing)
    return undoing


def check_mirror(original: PostedTransfer, undoing: TransferInput) -> None:
    """Raises NotAReversal unless `undoing` gives back exactly what `original` moved."""
    if original.reverses_id is not None:
        raise NotAReversal("what undoes another transfer is not undone itself")
    if (original.kind == HOLD_KIND) != _UNDOES.get(undoing.kind):
        raise NotAReversal(f"{undoing.kind} does not undo {original.kind}")
    moved = {(entry.account, entry.credit_fen, entry.debit_fen) for entry in original.entries}
    if {(leg.account, leg.debit_fen, leg.credit_fen) for leg in undoing.legs} != moved:
        raise NotAReversal("the legs are not those of the original with sides exchanged")
    said = (original.region, original.order_id, original.our_no, original.channel_no)
    order_id = str(undoing.order_id) if undoing.order_id else None
    if (undoing.region, order_id, undoing.our_no, undoing.channel_no) != said:
        raise NotAReversal("region and numbers are not those of the original")


def hold_transfer(
    order_no: str, order_id: UUID, region: str, shares: Mapping[str, int], now: datetime
) -> TransferInput:
    """What an open order is expected to bring, in fen per payee; payees without a share are left
    out. Posting refuses an order without any money (NotATransfer)."""
    owed = {payee: fen for payee, fen in shares.items() if fen != 0}
    return TransferInput(
        id=str(ids.row_id(now)),
        idempotency_key=hold_key(order_no),
        kind=HOLD_KIND,
        region=region,
        order_id=order_id,
        our_no=order_no,
        channel_no="",
        occurred_at=now,
        legs=[
            Leg(hold_expected(), debit_fen=sum(owed.values())),
            *(Leg(hold_payee(payee), credit_fen=fen) for payee, fen in owed.items()),
        ],
    )
