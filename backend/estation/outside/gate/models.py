"""Where each stream stands, what waits to leave, and every file that came. On both sides."""

from datetime import datetime
from typing import Any

from tortoise import fields
from tortoise.models import Model


class OutgoingStream(Model):
    """The head of a stream we write, and what the peer says it has received of it.

    Packets up to `written_seq` exist as files; those after it are still only in the database.
    """

    stream = fields.CharField(max_length=64, primary_key=True)
    last_seq = fields.BigIntField()
    last_digest = fields.CharField(max_length=64)
    watermark: datetime | None = fields.DatetimeField(null=True)
    packed_at: datetime | None = fields.DatetimeField(null=True)
    written_seq = fields.BigIntField(default=0)
    peer_received_seq = fields.BigIntField(default=0)
    peer_received_at: datetime | None = fields.DatetimeField(null=True)
    peer_trouble = fields.CharField(max_length=64, default="")

    class Meta:
        table = "gate_outgoing_stream"


class OutgoingRow(Model):
    """A row that must cross, written in the transaction of what it reports."""

    id = fields.BigIntField(primary_key=True, generated=True)
    stream = fields.CharField(max_length=64)
    topic = fields.CharField(max_length=64)
    body = fields.JSONField[dict[str, Any]]()
    created_at: datetime = fields.DatetimeField()
    packed_seq: int | None = fields.BigIntField(null=True)

    class Meta:
        table = "gate_outgoing_row"


class OutgoingPacket(Model):
    """A sealed packet, byte for byte: its file can be written again at any time."""

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    seq = fields.BigIntField()
    digest = fields.CharField(max_length=64)
    rows = fields.IntField()
    manifest = fields.BinaryField()
    body = fields.BinaryField()
    created_at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_outgoing_packet"
        unique_together = (("stream", "seq"),)


class IncomingStream(Model):
    """The position of a stream we read; `stopped_reason` is empty while it runs.

    `content_seq` is the last packet that carried more than reports about our own packets,
    `reported_seq` the last one we told the peer about.
    """

    stream = fields.CharField(max_length=64, primary_key=True)
    last_seq = fields.BigIntField()
    last_digest = fields.CharField(max_length=64)
    watermark: datetime | None = fields.DatetimeField(null=True)
    applied_at: datetime | None = fields.DatetimeField(null=True)
    stopped_reason = fields.CharField(max_length=64, default="")
    stopped_detail = fields.TextField(default="")
    stopped_at: datetime | None = fields.DatetimeField(null=True)
    failures = fields.IntField(default=0)
    retry_at: datetime | None = fields.DatetimeField(null=True)
    parked_files = fields.IntField(default=0)
    duplicates = fields.BigIntField(default=0)
    content_seq = fields.BigIntField(default=0)
    reported_seq = fields.BigIntField(default=0)
    reported_at: datetime | None = fields.DatetimeField(null=True)

    class Meta:
        table = "gate_incoming_stream"


class IncomingFile(Model):
    """What became of one file: `applied` or `quarantined` with a reason.

    `digest` is the packet's when applied, that of the file's bytes when quarantined; `kept_as`
    is its name in the quarantine folder, `times` how often the same bytes came.
    """

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    seq: int | None = fields.BigIntField(null=True)
    file_name = fields.CharField(max_length=128)
    digest = fields.CharField(max_length=64)
    state = fields.CharField(max_length=16)
    reason = fields.CharField(max_length=64, default="")
    detail = fields.TextField(default="")
    kept_as = fields.CharField(max_length=160, default="")
    rows = fields.IntField(default=0)
    times = fields.IntField(default=1)
    received_at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_incoming_file"
        indexes = (("stream", "seq"), ("digest",))


class ParkedRow(Model):
    """A row of a topic this side does not handle yet: kept as it came, never dropped."""

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    seq = fields.BigIntField()
    line = fields.IntField()
    topic = fields.CharField(max_length=64)
    body = fields.TextField()
    created_at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_parked_row"
        unique_together = (("stream", "seq", "line"),)


class GatePeer(Model):
    """Another side we exchange files with: the city centre, a county, or the online side.

    `regions`: GB/T 2260 codes, or beginnings of them, whose rows it may write; empty: any.
    `folder` holds `incoming/`, `outgoing/` and `quarantine/`. `title`: what citizens call it;
    they are told that its data are late after `late_after_seconds`. `trouble`: why its folder or
    our key for it could not be used at the last round.
    """

    name = fields.CharField(max_length=64, primary_key=True)
    title = fields.CharField(max_length=64)
    folder = fields.CharField(max_length=512)
    stream_in = fields.CharField(max_length=64)
    stream_out = fields.CharField(max_length=64)
    regions = fields.JSONField[list[str]]()
    late_after_seconds = fields.IntField()
    state = fields.CharField(max_length=16)  # active, suspended
    trouble = fields.CharField(max_length=64, default="")
    trouble_at: datetime | None = fields.DatetimeField(null=True)
    created_at: datetime = fields.DatetimeField()
    changed_at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_peer"


class GatePeerSource(Model):
    """Which peer speaks for a source, and gets the rows that concern it: one."""

    source = fields.CharField(max_length=32, primary_key=True)
    peer = fields.CharField(max_length=64, db_index=True)

    class Meta:
        table = "gate_peer_source"


class GateKey(Model):
    """A key between us and one peer, from `valid_from` until `valid_until` (None: no end).

    `theirs`: their public key, by which we know their packets. `ours`: we seal for them with
    the private key in `file`, a name among the secrets; the newest valid one is used.
    """

    id = fields.UUIDField(primary_key=True)
    peer = fields.CharField(max_length=64)
    owner = fields.CharField(max_length=8)
    key_id = fields.CharField(max_length=64)
    public_pem = fields.TextField()
    file = fields.CharField(max_length=256, default="")
    valid_from: datetime = fields.DatetimeField()
    valid_until: datetime | None = fields.DatetimeField(null=True)
    created_at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_key"
        unique_together = (("peer", "owner", "key_id"),)


class GateDestination(Model):
    """A further folder that gets every file of a stream.

    `passed_over`: packets that were no longer kept when this folder could be written again; a
    snapshot brings what they held.
    """

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    folder = fields.CharField(max_length=512)
    written_seq = fields.BigIntField(default=0)
    passed_over = fields.BigIntField(default=0)
    failure = fields.CharField(max_length=128, default="")
    failed_at: datetime | None = fields.DatetimeField(null=True)
    created_at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_destination"
        unique_together = (("stream", "folder"),)


class GateDeed(Model):
    """What a person did to a peer or stream, and why. Append-only."""

    id = fields.UUIDField(primary_key=True)
    peer = fields.CharField(max_length=64)
    what = fields.CharField(max_length=32)
    about = fields.CharField(max_length=128, default="")  # a packet, a key, a folder
    by = fields.CharField(max_length=128)
    reason = fields.CharField(max_length=512)
    at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_deed"
        indexes = (("peer", "at"),)
