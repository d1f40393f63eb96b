"""Raw bills with their hash and lines, the day's runs and their differences."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from estation.shared.fields import FenField


class BillFile(Model):
    """A channel bill exactly as received. A later, different file of a day is a new row.

    Its lines name their payers, so the content is sealed; digest and length are of the bytes as
    received. `line_count` and `proof` are null until the file was read whole and proved itself;
    its lines are stored in the same transaction, so a file has either all its lines or none. Of an
    account's day one file at most has `booked_fee_fen`: the one whose fees stand in the books.
    """

    id = fields.UUIDField(primary_key=True)
    channel = fields.CharField(max_length=16)
    account_id = fields.CharField(max_length=64)
    day: date = fields.DateField()
    sha256 = fields.CharField(max_length=64)
    content = fields.BinaryField()  # sealed: each line names its payer
    is_sealed = fields.BooleanField(default=False, db_default=False)  # false in older rows
    byte_count = fields.IntField()  # as received, like `sha256`
    fetched_at: datetime = fields.DatetimeField()
    seen_at: datetime = fields.DatetimeField()  # when the channel last gave exactly these bytes
    line_count: int | None = fields.IntField(null=True)
    proof = fields.JSONField[list[list[str]]](null=True)  # [check, ours, theirs]
    settlement_fen: int | None = fields.BigIntField(null=True)  # as the bill's own totals say
    booked_fee_fen: int | None = fields.BigIntField(null=True)  # returned fees taken off

    class Meta:
        table = "channel_bill_file"
        unique_together = (("account_id", "day", "sha256"),)


class BillLine(Model):
    """One line of a proven bill in our words; the raw file stays the evidence."""

    id = fields.BigIntField(primary_key=True, generated=True)
    bill_file: fields.ForeignKeyRelation[BillFile] = fields.ForeignKeyField(
        "estation.BillFile", related_name=False, on_delete=fields.RESTRICT
    )
    bill_file_id: UUID
    line_no = fields.IntField()
    kind = fields.CharField(max_length=16)  # payment, refund
    out_trade_no = fields.CharField(max_length=64)
    channel_trade_no = fields.CharField(max_length=64)
    refund_no = fields.CharField(max_length=64, null=True)
    amount_fen = FenField()
    fee_fen_e3 = fields.BigIntField()  # thousandths of a fen, signed
    at: datetime = fields.DatetimeField()
    state = fields.CharField(max_length=32)

    class Meta:
        table = "channel_bill_line"
        unique_together = (("bill_file_id", "line_no"),)


class Run(Model):
    """One reconciliation of one Beijing day; re-running makes a new row.

    `input_digest` covers the raw files' hashes, so it names the evidence; `result_digest` covers
    what the files say, the ledger's rows, the rules' version and the findings, and is the same
    for the same facts in any order.
    """

    id = fields.UUIDField(primary_key=True)
    day: date = fields.DateField()
    state = fields.CharField(max_length=16)  # balanced, differences, blocked
    started_at: datetime = fields.DatetimeField()
    finished_at: datetime = fields.DatetimeField()
    started_by = fields.CharField(max_length=64)
    rules_version = fields.CharField(max_length=16)
    legs = fields.JSONField[list[dict[str, Any]]]()
    counts = fields.JSONField[dict[str, int]]()
    matched = fields.IntField()
    matched_fen = FenField()
    input_digest = fields.CharField(max_length=64)
    result_digest = fields.CharField(max_length=64)

    class Meta:
        table = "reconciliation_run"


class Difference(Model):
    """One finding of a run, typed by `rules.KINDS`; `evidence` holds both sides' rows."""

    id = fields.UUIDField(primary_key=True)
    run: fields.ForeignKeyRelation[Run] = fields.ForeignKeyField(
        "estation.Run", related_name=False, on_delete=fields.RESTRICT
    )
    run_id: UUID
    kind = fields.CharField(max_length=48)
    channel = fields.CharField(max_length=16)
    account_id = fields.CharField(max_length=64)
    out_trade_no = fields.CharField(max_length=64)
    our_fen: int | None = fields.BigIntField(null=True)
    their_fen: int | None = fields.BigIntField(null=True)
    evidence = fields.JSONField[dict[str, Any]]()

    class Meta:
        table = "reconciliation_difference"
