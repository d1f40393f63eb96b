"""Transfers with their entries, and the blocks that chain them: inserted, never changed (triggers
refuse it)."""

from datetime import date, datetime
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from estation.shared.fields import FenField


class Transfer(Model):
    """One balanced movement of money. The same key with another input is refused."""

    id = fields.UUIDField(primary_key=True)
    idempotency_key = fields.CharField(max_length=160, unique=True)
    input_hash = fields.CharField(max_length=64)
    kind = fields.CharField(max_length=32)
    region = fields.CharField(max_length=6)
    order_id = fields.UUIDField(null=True, db_index=True)
    our_no = fields.CharField(max_length=64)  # our out_trade_no
    channel_no = fields.CharField(max_length=64)  # the channel's trade number
    # The channel's clock. The index is a block range one (migration 0009).
    occurred_at: datetime = fields.DatetimeField(db_index=True)
    posted_at: datetime = fields.DatetimeField()
    reverses_id = fields.UUIDField(null=True)  # the transfer that this one undoes; unique
    # Besides, `posted_xid` (xid8): the database transaction that posted it, filled in by the
    # database for the sealer. It says nothing about the money and is in no digest.

    class Meta:
        table = "ledger_transfer"


class Entry(Model):
    """One leg of a transfer: exactly one of debit and credit is above zero."""

    id = fields.UUIDField(primary_key=True)
    transfer: fields.ForeignKeyRelation[Transfer] = fields.ForeignKeyField(
        "estation.Transfer", related_name=False, on_delete=fields.RESTRICT
    )
    transfer_id: UUID
    account = fields.CharField(max_length=96)  # grammar in ledger.rules
    debit_fen = FenField()
    credit_fen = FenField()

    class Meta:
        table = "ledger_entry"
        unique_together = (("transfer_id", "account"),)


class LedgerBlock(Model):
    """Some transfers of one book (a region), chained to the block before. See `rules.chain`.

    `id` orders the blocks of all books as they were sealed. `floor_xid` (in the database only) is
    the database transaction from which on the next sealing looks.
    """

    id = fields.BigIntField(primary_key=True, generated=True)
    book = fields.CharField(max_length=6)
    height = fields.IntField()
    first_transfer_id = fields.UUIDField()
    last_transfer_id = fields.UUIDField()
    transfer_count = fields.IntField()
    debit_fen = FenField()
    root = fields.CharField(max_length=64)
    previous_digest = fields.CharField(max_length=64)
    digest = fields.CharField(max_length=64)
    sealed_at: datetime = fields.DatetimeField()

    class Meta:
        table = "ledger_block"
        unique_together = (("book", "height"),)


class SealedTransfer(Model):
    """Which block a transfer is in, and what it said when it was sealed.

    No foreign key to the transfer: its check would write a lock into every row of the hot table.
    """

    transfer_id = fields.UUIDField(primary_key=True)
    block: fields.ForeignKeyRelation[LedgerBlock] = fields.ForeignKeyField(
        "estation.LedgerBlock", related_name=False, on_delete=fields.RESTRICT
    )
    block_id: int
    position = fields.IntField()  # from 0
    digest = fields.BinaryField()  # 32 bytes

    class Meta:
        table = "ledger_sealed_transfer"
        unique_together = (("block_id", "position"),)


class LedgerHead(Model):
    """The newest block of a book as it was published on a Beijing day, signed."""

    id = fields.UUIDField(primary_key=True)
    day: date = fields.DateField()
    book = fields.CharField(max_length=6)
    height = fields.IntField()
    digest = fields.CharField(max_length=64)
    transfers = fields.IntField()  # in all blocks up to this one
    debit_fen = FenField()
    published_at: datetime = fields.DatetimeField()
    key_id = fields.CharField(max_length=16)
    signature = fields.BinaryField()

    class Meta:
        table = "ledger_head"
        unique_together = (("day", "book"),)


class OpenHold(Model):
    """A hold that nothing has released yet: a list to work through, kept by the sealer."""

    transfer_id = fields.UUIDField(primary_key=True)
    order_id = fields.UUIDField()
    order_no = fields.CharField(max_length=64)
    occurred_at: datetime = fields.DatetimeField(db_index=True)

    class Meta:
        table = "ledger_open_hold"
