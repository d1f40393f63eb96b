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
    """A row that must cross, written in the transaction of what it reports.

    It goes when it is packed: from then on its packet holds it. What must be found again beside
    its packet stays until that is confirmed, with `packed_seq`. `body` is JSON;
    `is_canonical`: in the spelling in which it crosses.
    """

    id = fields.BigIntField(primary_key=True, generated=True)
    stream = fields.CharField(max_length=64)
    topic = fields.CharField(max_length=64)
    body = fields.TextField()
    created_at: datetime = fields.DatetimeField()
    packed_seq: int | None = fields.BigIntField(null=True)
    is_canonical = fields.BooleanField(default=False, db_default=False)

    class Meta:
        table = "gate_outgoing_row"


class OutgoingPacket(Model):
    """A sealed packet, byte for byte: its file can be written again at any time.

    `bytes_upto` and `contents_upto` count the bytes, and the packets with more than reports and
    heartbeats, of the stream up to and with this one. `waited`: so many of its rows, the first
    ones, waited to be packed; the others were made for it. None in packets of before.
    """

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    seq = fields.BigIntField()
    digest = fields.CharField(max_length=64)
    rows = fields.IntField()
    manifest = fields.BinaryField()
    body = fields.BinaryField()
    created_at: datetime = fields.DatetimeField()
    bytes_upto: int = fields.BigIntField(default=0, db_default=0)
    contents_upto: int = fields.BigIntField(default=0, db_default=0)
    waited: int | None = fields.IntField(null=True)

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
    """A row of a topic this side does not handle yet: kept as it came, never dropped.

    The same row again (`digest`, SHA-256 of the body) is not kept a second time. A `line` below 0
    is that of a part of a file for which there is no room yet (`files`). What nobody here
    understands may name anybody: on a side that seals it is `body_sealed`, and there is no `body`.
    `created_at`: the watermark of its packet, our own moment in rows of before.
    """

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    seq = fields.BigIntField()
    line = fields.IntField()
    topic = fields.CharField(max_length=64)
    body: str | None = fields.TextField(null=True)
    body_sealed: bytes | None = fields.BinaryField(null=True)
    created_at: datetime = fields.DatetimeField()
    digest: bytes | None = fields.BinaryField(null=True)

    class Meta:
        table = "gate_parked_row"
        unique_together = (("stream", "seq", "line"),)


class GatePeer(Model):
    """Another side we exchange files with: the city centre, a county, or the online side.

    `regions`: GB/T 2260 codes, or beginnings of them, whose rows it may write; empty: any.
    `folder` holds `incoming/`, `outgoing/` and `quarantine/`. `title`: what citizens call it;
    they are told that its data are late after `late_after_seconds`. `trouble`: why its folder or
    our key for it could not be used at the last round. `symbols_folder`: where packets for it
    leave as symbols (`symbols`); "" for whole files.
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
    disk_free: int | None = fields.BigIntField(null=True)  # bytes, at the last look
    symbols_folder = fields.CharField(max_length=512, default="", db_default="")
    symbols_repair_percent = fields.IntField(default=50, db_default=50)
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
    # Where its packets go on as symbols, as of GatePeer; "" for whole files.
    symbols_folder = fields.CharField(max_length=512, default="", db_default="")
    symbols_repair_percent = fields.IntField(default=50, db_default=50)
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


class SentRow(Model):
    """The newest version of everything ever sent, for snapshots, proofs and repairs."""

    id = fields.BigIntField(primary_key=True, generated=True)
    stream = fields.CharField(max_length=64)
    topic = fields.CharField(max_length=64)
    source = fields.CharField(max_length=32)
    key = fields.CharField(max_length=160)
    version = fields.BigIntField()
    digest = fields.BinaryField()
    body = fields.JSONField[dict[str, Any]]()
    at: datetime = fields.DatetimeField()
    bucket: int = fields.SmallIntField(default=0, db_default=0)  # merkle.bucket_of(key)

    class Meta:
        table = "gate_sent_row"
        unique_together = (("stream", "topic", "source", "key"),)


class Upkeep(Model):
    """When a stream we write is next looked after, and why it packs no further.

    `peer_seq` is what the peer said last, and since when it says so; other than
    `OutgoingStream.peer_received_seq` it goes back when the peer lost its memory.
    `backfill_id`: rows up to here are in the sent log; null when all are. `proved_upto`: topic and
    source, a space between, of the last copy proved in a round that goes on.
    """

    stream = fields.CharField(max_length=64, primary_key=True)
    peer_seq = fields.BigIntField(default=0)
    peer_since: datetime | None = fields.DatetimeField(null=True)
    peer_is_behind = fields.BooleanField(default=False)
    resent_from = fields.BigIntField(default=0)
    resend_pause_seconds = fields.IntField(default=0)
    resend_at: datetime | None = fields.DatetimeField(null=True)
    blind_at: datetime | None = fields.DatetimeField(null=True)
    snapshot_at: datetime | None = fields.DatetimeField(null=True)
    prove_at: datetime | None = fields.DatetimeField(null=True)
    proof_is_due = fields.BooleanField(default=False)
    proved_at: datetime | None = fields.DatetimeField(null=True)
    proved_upto = fields.CharField(max_length=128, default="", db_default="")
    paused_reason = fields.CharField(max_length=32, default="")
    paused_at: datetime | None = fields.DatetimeField(null=True)
    backfill_id: int | None = fields.BigIntField(null=True)
    log_is_complete = fields.BooleanField(default=True)

    class Meta:
        table = "gate_upkeep"


class Snapshot(Model):
    """Everything sent once more, in pieces: planned, running (up to a row of the log), done."""

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    why = fields.CharField(max_length=32)
    state = fields.CharField(max_length=16)
    topic = fields.CharField(max_length=64, default="")
    source = fields.CharField(max_length=32, default="")
    key = fields.CharField(max_length=160, default="")
    is_exhausted = fields.BooleanField(default=False)
    rows = fields.BigIntField(default=0)
    first_seq: int | None = fields.BigIntField(null=True)
    last_seq: int | None = fields.BigIntField(null=True)
    planned_at: datetime = fields.DatetimeField()
    ended_at: datetime | None = fields.DatetimeField(null=True)

    class Meta:
        table = "gate_snapshot"
        indexes = (("stream", "planned_at"),)


class Repair(Model):
    """Buckets the peer holds otherwise; `bucket_at` and `after_key` say what is sent already."""

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    topic = fields.CharField(max_length=64)
    source = fields.CharField(max_length=32)
    buckets = fields.JSONField[list[int]]()
    bucket_at = fields.IntField(default=0)
    after_key = fields.CharField(max_length=160, default="")
    rows = fields.IntField(default=0)
    asked_at: datetime = fields.DatetimeField()
    done_at: datetime | None = fields.DatetimeField(null=True)

    class Meta:
        table = "gate_repair"
        indexes = (("stream", "done_at"),)


class Proof(Model):
    """What a proof of the sender's found here: the same, or which buckets are not."""

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    seq = fields.BigIntField()
    topic = fields.CharField(max_length=64)
    source = fields.CharField(max_length=32)
    rows = fields.BigIntField()
    root = fields.CharField(max_length=64)
    our_rows = fields.BigIntField()
    our_root = fields.CharField(max_length=64)
    is_equal = fields.BooleanField()
    buckets = fields.JSONField[list[int]]()
    at: datetime = fields.DatetimeField()
    # Rows that are set aside, and whether nothing but they makes the difference.
    refused_rows = fields.IntField(default=0, db_default=0)
    is_known = fields.BooleanField(default=False, db_default=False)

    class Meta:
        table = "gate_proof"
        indexes = (("stream", "topic", "source", "at"), ("at",))


class SentSource(Model):
    """A topic and source that was ever sent: proved also when the log has nothing of it."""

    id = fields.BigIntField(primary_key=True, generated=True)
    stream = fields.CharField(max_length=64)
    topic = fields.CharField(max_length=64)
    source = fields.CharField(max_length=32)

    class Meta:
        table = "gate_sent_source"
        unique_together = (("stream", "topic", "source"),)


class Phantom(Model):
    """A row here that its source does not know. It stays, but is no part of the copy any more."""

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    topic = fields.CharField(max_length=64)
    source = fields.CharField(max_length=32)
    key = fields.CharField(max_length=160)
    named_at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_phantom"
        unique_together = (("topic", "source", "key"),)


class RefusedRow(Model):
    """A row this side could not take in, set aside until one of its thing is (`refused`).

    `digest` as its sender counts it, `reason` names the field and never the value, `times` how
    often it came. `healed_by`: taken_in, not_sent (its sender does not have it any more),
    given_up (by a person), older (it never was the newest).
    """

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    seq = fields.BigIntField()
    topic = fields.CharField(max_length=64)
    source = fields.CharField(max_length=32)
    key = fields.CharField(max_length=160)
    version = fields.BigIntField()
    digest = fields.BinaryField()
    body_sealed: bytes | None = fields.BinaryField(null=True)
    reason = fields.CharField(max_length=512)
    times = fields.IntField(default=1)
    at: datetime = fields.DatetimeField()
    seen_at: datetime = fields.DatetimeField()
    healed_at: datetime | None = fields.DatetimeField(null=True)
    healed_by = fields.CharField(max_length=32, default="")

    class Meta:
        table = "gate_refused_row"
        indexes = (("healed_at",),)


class RowAsSent(Model):
    """A row that said more than we know, whole, of a topic whose context keeps only that (`more`).

    `body` on a side that seals nothing, else `body_sealed`.
    """

    id = fields.UUIDField(primary_key=True)
    topic = fields.CharField(max_length=64)
    source = fields.CharField(max_length=32)
    key = fields.CharField(max_length=160)
    version = fields.BigIntField()
    digest = fields.BinaryField()
    body: str | None = fields.TextField(null=True)
    body_sealed: bytes | None = fields.BinaryField(null=True)
    at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_row_as_sent"
        unique_together = (("topic", "source", "key", "version", "digest"),)


class Event(Model):
    """What happened to a stream that a person may ask about later: jumps, refused snapshots,
    rows healed or named, files given up for want of space."""

    id = fields.UUIDField(primary_key=True)
    stream = fields.CharField(max_length=64)
    kind = fields.CharField(max_length=32)
    distinction = fields.CharField(max_length=128, default="")
    first_seq: int | None = fields.BigIntField(null=True)
    last_seq: int | None = fields.BigIntField(null=True)
    reason = fields.CharField(max_length=64, default="")
    detail = fields.JSONField[dict[str, Any]]()
    at: datetime = fields.DatetimeField()

    class Meta:
        table = "gate_event"
        indexes = (("stream", "kind", "at"),)
