"""The newest picture of each thing of the register, and every version as it came.

These are copies: what is right is decided by the centre, so no trigger keeps a repair out.
"""

from datetime import date, datetime
from typing import Any

from tortoise import fields
from tortoise.models import Model


class RegistryUnit(Model):
    """One unit (不动产单元) of the building table; areas in 1/10000 m²."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    data_as_of: datetime = fields.DatetimeField()
    row_digest = fields.BinaryField()
    unit_code = fields.CharField(max_length=28, db_index=True)
    parcel_code = fields.CharField(max_length=19)
    natural_building = fields.CharField(max_length=32)
    logical_building = fields.CharField(max_length=32)
    floor = fields.CharField(max_length=16)
    actual_floor: int | None = fields.IntField(null=True)
    room = fields.CharField(max_length=32)
    address = fields.CharField(max_length=256)
    usage = fields.CharField(max_length=8)
    structure = fields.CharField(max_length=8)
    building_area: int | None = fields.BigIntField(null=True)
    inner_area: int | None = fields.BigIntField(null=True)
    shared_area: int | None = fields.BigIntField(null=True)
    house_code = fields.CharField(max_length=32)
    project = fields.CharField(max_length=128)
    state = fields.CharField(max_length=16)

    class Meta:
        table = "registry_unit"
        unique_together = (("source", "source_id"),)
        indexes = (("parcel_code", "natural_building"),)


class RegistryRight(Model):
    """One right on one unit; its holders are in `registry_holder`."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    data_as_of: datetime = fields.DatetimeField()
    row_digest = fields.BinaryField()
    kind = fields.CharField(max_length=24)
    national_code = fields.CharField(max_length=8)
    unit_code = fields.CharField(max_length=28, db_index=True)
    holding = fields.CharField(max_length=16)
    certificate_no = fields.CharField(max_length=128)
    certificate_key = fields.CharField(max_length=128, db_index=True)
    registered_at: datetime = fields.DatetimeField()
    until: date | None = fields.DateField(null=True)
    state = fields.CharField(max_length=16)
    case_source_id = fields.CharField(max_length=64)
    secured_fen: int | None = fields.BigIntField(null=True)
    maximum = fields.BooleanField()
    debt_from: date | None = fields.DateField(null=True)
    debt_until: date | None = fields.DateField(null=True)
    rank: int | None = fields.IntField(null=True)
    transfer_limited = fields.BooleanField(null=True)

    class Meta:
        table = "registry_right"
        unique_together = (("source", "source_id"),)


class RegistryRestriction(Model):
    """A seizure, freeze, objection or lock on one unit."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    data_as_of: datetime = fields.DatetimeField()
    row_digest = fields.BinaryField()
    unit_code = fields.CharField(max_length=28, db_index=True)
    kind = fields.CharField(max_length=16)
    organ = fields.CharField(max_length=128)
    document_no = fields.CharField(max_length=128)
    since: date = fields.DateField()
    until: date | None = fields.DateField(null=True)
    scope = fields.CharField(max_length=512)
    queue_position = fields.IntField()
    state = fields.CharField(max_length=16)
    registered_at: datetime = fields.DatetimeField()
    lifted_at: datetime | None = fields.DatetimeField(null=True)
    lifted_by = fields.CharField(max_length=128)
    lifted_document_no = fields.CharField(max_length=128)

    class Meta:
        table = "registry_restriction"
        unique_together = (("source", "source_id"),)


class RegistryCertificate(Model):
    """A certificate or proof; `number_key` is its one spelling."""

    id = fields.UUIDField(primary_key=True)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    data_as_of: datetime = fields.DatetimeField()
    row_digest = fields.BinaryField()
    number = fields.CharField(max_length=128)
    number_key = fields.CharField(max_length=128, db_index=True)
    kind = fields.CharField(max_length=16)
    print_no = fields.CharField(max_length=32)
    unit_codes = fields.JSONField[list[Any]]()
    issued_at: datetime = fields.DatetimeField()
    state = fields.CharField(max_length=16)

    class Meta:
        table = "registry_certificate"
        unique_together = (("source", "source_id"),)


class RegistryHolder(Model):
    """Who holds a right, or stands in a certificate (`owner_id`), sealed.

    `id_no_index` is made as that of `person`, so that a citizen finds what is theirs; "" where
    the register knows no number.
    """

    id = fields.UUIDField(primary_key=True)
    owner_id = fields.UUIDField()
    seq = fields.IntField()
    name_index = fields.CharField(max_length=64)
    name_sealed = fields.BinaryField()
    id_type = fields.CharField(max_length=8)
    id_no_index = fields.CharField(max_length=64)
    id_no_sealed = fields.BinaryField()
    kind = fields.CharField(max_length=8)
    share_numerator = fields.IntField()
    share_denominator = fields.IntField()

    class Meta:
        table = "registry_holder"
        unique_together = (("owner_id", "seq"),)
        indexes = (("id_no_index", "id_type"),)


class RegistryVersion(Model):
    """One version of anything above exactly as it came, fields we do not know included.

    Sealed whole: nobody knows whom an unknown field names. It was in force here from
    `data_as_of` until the next version's.
    """

    id = fields.UUIDField(primary_key=True)
    kind = fields.CharField(max_length=16)
    source = fields.CharField(max_length=32)
    source_id = fields.CharField(max_length=64)
    version = fields.IntField()
    region = fields.CharField(max_length=6)
    data_as_of: datetime = fields.DatetimeField()
    row_digest = fields.BinaryField()
    body_sealed = fields.BinaryField()

    class Meta:
        table = "registry_version"
        unique_together = (("source", "source_id", "kind", "version"),)
