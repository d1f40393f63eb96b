"""The rows that cross the gate, typed once and used by both sides.

A topic names its row type. Money is integer fen, moments are RFC 3339 with offset, days are
ISO dates. `source` is the issuing centre; `(source, source_id)` names a thing for ever and
`version` grows with each change of it. Lengths and ranges are what the receiving tables hold:
a row outside of them is refused on both sides, before it is sent and before it is applied.
Fields a receiver does not know are accepted, so that senders may be newer, and kept: a context
stores each version's JSON as it came (`AsSent`) beside what it understood of it.
"""

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
import msgspec.inspect
import msgspec.structs
from msgspec import Meta, Struct

from estation.shared.fields import MAX_FEN

Fen: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_FEN)]
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
Version: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Position: TypeAlias = Annotated[int, Meta(ge=0, le=9_999_999_999)]
Source: TypeAlias = Annotated[str, Meta(min_length=1, max_length=32)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Code: TypeAlias = Annotated[str, Meta(max_length=32)]
_IS_ID = {"id": True}
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, extra=_IS_ID)]
IdOrNone: TypeAlias = Annotated[str, Meta(max_length=64, extra=_IS_ID)]
Number: TypeAlias = Annotated[str, Meta(max_length=32, extra=_IS_ID)]
"""Ids hold no colon: some keys are two of them with one between, and no two things may have one
key (`identity`)."""
Line: TypeAlias = Annotated[str, Meta(max_length=128)]
Text: TypeAlias = Annotated[str, Meta(max_length=512)]
Region: TypeAlias = Annotated[str, Meta(min_length=6, max_length=6)]
Digest: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
UnitCode: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{12}[GJZ][ABCDEFGHLNSWXY][0-9]{5}(?:[FLQ][0-9A-Z][0-9]{7}|W0{8})\Z",
        max_length=28,
    ),
]
"""不动产单元代码, GB/T 37346-2019, without spaces. A letter may begin the building's number: some
centres count on like that beyond 9999."""
ParcelCode: TypeAlias = Annotated[
    str, Meta(pattern=r"^[0-9]{12}[GJZ][ABCDEFGHLNSWXY][0-9]{5}\Z", max_length=19)
]
Area: TypeAlias = Annotated[int, Meta(ge=0, le=10**15)]
"""In 1/10000 m²: 89.5 m² is 895000, the precision of survey records, and no float."""

MAX_KEY = 160
"""Characters of a row's key."""
# `gc=False`: rows hold no cycles, and a packet of them would else be walked through by the garbage
# collector again and again, which was a fifth of the importer's work.

MAX_PARTS = 1000
"""Items, parties, stages or splits of one row; the longest real bill has a few dozen."""
FIRST_YEAR, LAST_YEAR = 1900, 2200
"""Of every moment, as it is written: nearer to the calendar's ends a change of its time zone alone
may have no place in a table any more."""
MOMENT = (
    r"^(?:19[0-9]{2}|2[01][0-9]{2}|2200)-[0-9]{2}-[0-9]{2}"
    r"T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})\Z"
)
"""How a moment is spelt. The decoder alone would also take a blank for the T, small letters, an
offset without its colon, and more digits than a table keeps: it rounds them, even into the next
second."""
NUL = b"\\u0000"
"""The one character PostgreSQL can store neither in text nor in jsonb, as JSON spells it."""


class PartyRow(Struct, frozen=True, kw_only=True, gc=False):
    """A person in a matter, identified at the counter."""

    role: Annotated[str, Meta(min_length=1, max_length=16)]  # buyer, seller, mortgagee …
    name: Name
    id_type: Annotated[
        str, Meta(min_length=1, max_length=8)
    ]  # code table zjzl: "1" is the resident identity card
    id_no: Name
    phone: Code


class StageRow(Struct, frozen=True, kw_only=True):
    """One box of the flow chart (网签→资金托管→抵押→纳税→登记)."""

    stage: Code  # contract, escrow, loan, tax, registration
    state: Code  # waiting, doing, done, not_required, returned
    at: Moment | None = None
    note: Text = ""


class CaseRow(Struct, frozen=True, kw_only=True):
    """Topic `case`: the whole present state of one matter (办件)."""

    source: Source
    source_id: Id
    version: Version
    region: Region
    case_no: Code
    matter: Code
    hall: Annotated[str, Meta(max_length=64)]
    unit_code: Annotated[str, Meta(max_length=28)]
    address: Annotated[str, Meta(max_length=256)]
    opened_at: Moment
    state: Annotated[str, Meta(min_length=1, max_length=16)]  # open, closed, withdrawn
    parties: Annotated[list[PartyRow], Meta(max_length=MAX_PARTS)]
    stages: Annotated[list[StageRow], Meta(max_length=MAX_PARTS)]


class FeeItemRow(Struct, frozen=True, kw_only=True, gc=False):
    """One tax or fee. `amount_fen` = what is due after relief; zero items are shown as exempt."""

    seq: Annotated[int, Meta(ge=0, le=MAX_PARTS)]
    code: Code
    name: Name
    payee_code: Code
    base_fen: Fen | None
    rate: Code
    relief_fen: Fen
    amount_fen: Fen
    formula: Text
    legal_basis: Text
    note: Text = ""


class FeeBillRow(Struct, frozen=True, kw_only=True, gc=False):
    """Topic `fee_bill`: one payer's bill for one case; `version` grows when revised."""

    source: Source
    source_id: Id
    version: Version
    region: Region
    bill_no: Code
    case_source_id: Id
    title: Line
    payer: PartyRow
    state: Literal["issued", "withdrawn"]
    issued_at: Moment
    due_on: date | None
    total_fen: Fen
    items: Annotated[list[FeeItemRow], Meta(max_length=MAX_PARTS)]


class ReceiptSplitRow(Struct, frozen=True, kw_only=True):
    """What one payee got of a payment, and our receipt number for it.

    The last two say where the money lies when the payee's own merchant account received it
    (合单); empty when the city's collecting account did.
    """

    payee_code: Code
    amount_fen: Fen
    receipt_no: Name
    account_id: Annotated[str, Meta(max_length=64)] = ""
    channel_trade_no: Annotated[str, Meta(max_length=64)] = ""


class ReceiptRow(Struct, frozen=True, kw_only=True):
    """Topic `receipt`: one bill was paid, once. Keyed by (source, source_id, order_no)."""

    source: Source
    source_id: Id
    bill_version: Version
    bill_no: Code
    order_no: Number
    channel: Code
    out_trade_no: Name
    channel_trade_no: Name
    paid_at: Moment
    amount_fen: Fen
    transfer_id: Name
    splits: Annotated[list[ReceiptSplitRow], Meta(max_length=MAX_PARTS)]


class RefundShareRow(Struct, frozen=True, kw_only=True):
    """What one payee gives back of one bill."""

    payee_code: Code
    amount_fen: Fen


class RefundOrderRow(Struct, frozen=True, kw_only=True):
    """Topic `refund_order`: the centre has decided, by two persons, to give money back.

    `(source, source_id)` names the order to refund for ever. `shares` empty: the platform takes
    `amount_fen` from the payees in its defined order. `believed_refundable_fen`: what the centre
    thought could still be refunded of this payment when it decided.
    """

    source: Source
    source_id: Id
    version: Version
    region: Region
    bill_source_id: Id
    order_no: Number
    amount_fen: Annotated[int, Meta(ge=1, le=MAX_FEN)]
    believed_refundable_fen: Fen
    shares: Annotated[list[RefundShareRow], Meta(max_length=MAX_PARTS)]
    reason: Annotated[str, Meta(min_length=1, max_length=80)]
    asked_by: Name
    approved_by: Name
    approved_at: Moment


class RefundRow(Struct, frozen=True, kw_only=True):
    """Topic `refund`: how one refund stands. Keyed by (source, source_id, refund_no); `version`
    grows with each change. `order_source_id` is the centre's own refund order, "" when the
    online side started it."""

    source: Source
    source_id: Id  # the bill's
    version: Version
    refund_no: Number
    order_source_id: IdOrNone
    order_no: Number
    bill_no: Code
    state: Literal["refunding", "refunded", "not_refunded", "refused"]
    amount_fen: Fen
    shares: Annotated[list[RefundShareRow], Meta(max_length=MAX_PARTS)]
    channel: Code
    channel_refund_no: Annotated[str, Meta(max_length=64)]
    at: Moment
    transfer_id: Annotated[str, Meta(max_length=64)]
    reason: Annotated[str, Meta(max_length=80)]
    why_not: Annotated[str, Meta(max_length=64)] = ""


class PaymentEvidenceRow(Struct, frozen=True, kw_only=True):
    """Topic `payment_evidence`: what the channel's own words prove of one payment of a bill.

    Sent when a bill of the channel has proved it, one for each bill it paid and each merchant
    account that received it (合单). `amount_fen` is the channel's line, `bill_fen` what of it is
    this bill's. `version` grows when another file of that day proves it. Keyed by
    (source, source_id, order_no, out_trade_no).
    """

    source: Source
    source_id: Id  # the bill's
    version: Version
    bill_no: Code
    order_no: Number
    out_trade_no: Number
    channel: Code
    merchant_id: Name
    channel_trade_no: Name
    paid_at: Moment
    amount_fen: Fen
    bill_fen: Fen
    channel_day: date
    file_digest: Digest
    file_line: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    proved_at: Moment
    notice_id: Annotated[str, Meta(max_length=160)] = ""
    notice_digest: Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")] = ""
    noticed_at: Moment | None = None
    transfer_id: Name


class CaseEventRow(Struct, frozen=True, kw_only=True):
    """Topic `case_event`: what happened in a case, and when. Append-only.

    `(source, source_id)` names the event for ever, so there is one version of it. `seq` orders
    the events of one case. `stage` is "" for what concerns the whole case; `state` is what the
    stage, or the case, became.
    """

    source: Source
    source_id: Id
    version: Literal[1] = 1
    region: Region
    case_source_id: Id
    seq: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    what: Literal["opened", "stage_moved", "closed", "withdrawn"]
    stage: Code
    state: Annotated[str, Meta(min_length=1, max_length=16)]
    at: Moment
    note: Text = ""


class UnitRow(Struct, frozen=True, kw_only=True):
    """Topic `unit`: one 不动产单元 of the building table (楼盘表).

    `usage` and `structure` are codes of FWYT and FWJG, `floor` is the nominal one (there may be
    no 4th), `actual_floor` the counted one.
    """

    source: Source
    source_id: Id
    version: Version
    region: Region
    unit_code: UnitCode
    parcel_code: ParcelCode
    natural_building: Code
    logical_building: Code
    floor: Annotated[str, Meta(max_length=16)]
    actual_floor: Annotated[int, Meta(ge=-99, le=999)] | None
    room: Code
    address: Annotated[str, Meta(min_length=1, max_length=256)]
    usage: Annotated[str, Meta(max_length=8)]
    structure: Annotated[str, Meta(max_length=8)]
    building_area: Area | None
    inner_area: Area | None
    shared_area: Area | None
    house_code: Code
    project: Line
    state: Literal["forecast", "current", "historical"]


class HolderRow(Struct, frozen=True, kw_only=True):
    """Who holds a right (权利人). Old registers know some people without a number: `id_no` "".

    `share` counts only 按份共有: numerator and denominator, 0 and 0 otherwise.
    """

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    id_type: Annotated[str, Meta(min_length=1, max_length=8)]
    id_no: Annotated[str, Meta(max_length=64)]
    kind: Annotated[str, Meta(max_length=8)]  # 权利人类型: 1 个人 2 企业 …
    share_numerator: Annotated[int, Meta(ge=0, le=10**9)] = 0
    share_denominator: Annotated[int, Meta(ge=0, le=10**9)] = 0


class RightRow(Struct, frozen=True, kw_only=True):
    """Topic `right`: one right on one unit, ownership and mortgages alike.

    `kind` is ours, because the national table QLLX has no mortgage; `national_code` is its code
    there, "" for none. Amount, rank, debt term and `transfer_limited` (是否存在禁止或限制转让的
    约定; None: not asked, as before 2021) are a mortgage's. `until`: the land's term.
    """

    source: Source
    source_id: Id
    version: Version
    region: Region
    kind: Literal[
        "ownership", "land_use", "mortgage", "prenotice", "mortgage_prenotice", "easement",
        "residence", "other",
    ]  # fmt: skip
    national_code: Annotated[str, Meta(max_length=8)]
    unit_code: UnitCode
    holding: Literal["sole", "joint", "shares", "other"]  # 共有方式
    holders: Annotated[list[HolderRow], Meta(min_length=1, max_length=MAX_PARTS)]
    certificate_no: Line
    registered_at: Moment
    until: date | None
    state: Literal["provisional", "current", "historical", "ended"]  # 权属状态
    case_source_id: IdOrNone
    secured_fen: Fen | None = None
    maximum: bool = False  # 最高额抵押: `secured_fen` is the most it may become
    debt_from: date | None = None
    debt_until: date | None = None
    rank: Annotated[int, Meta(ge=1, le=999)] | None = None
    transfer_limited: bool | None = None
    note: Text = ""


class RestrictionRow(Struct, frozen=True, kw_only=True):
    """Topic `restriction`: what keeps a unit from being disposed of, and who ordered it.

    `queue_position` 0 is in force, 1 the next (轮候). `until` None: until it is lifted.
    """

    source: Source
    source_id: Id
    version: Version
    region: Region
    unit_code: UnitCode
    kind: Literal["seizure", "pre_seizure", "freeze", "objection", "lock", "other"]
    organ: Annotated[str, Meta(min_length=1, max_length=128)]
    document_no: Line
    since: date
    until: date | None
    scope: Text
    queue_position: Annotated[int, Meta(ge=0, le=999)]
    state: Literal["in_force", "queued", "lifted", "lapsed"]
    registered_at: Moment
    lifted_at: Moment | None = None
    lifted_by: Line = ""
    lifted_document_no: Line = ""
    note: Text = ""


class CertificateRow(Struct, frozen=True, kw_only=True):
    """Topic `certificate`: a paper or electronic 证书 (title) or 证明 (proof).

    `legacy`: a 房屋所有权证 or 国有土地使用证 of the time before 2015, which remains valid and
    whose number has no national form.
    """

    source: Source
    source_id: Id
    version: Version
    region: Region
    number: Annotated[str, Meta(min_length=1, max_length=128)]
    kind: Literal["title", "proof", "legacy"]
    print_no: Code
    holders: Annotated[list[HolderRow], Meta(min_length=1, max_length=MAX_PARTS)]
    unit_codes: Annotated[list[UnitCode], Meta(min_length=1, max_length=MAX_PARTS)]
    issued_at: Moment
    state: Literal["valid", "replaced", "lost", "cancelled"]


class ReceivedUpToRow(Struct, frozen=True, kw_only=True):
    """Topic `received_up_to`: what the opposite side has applied, as ordinary data.

    `behind`: packets beyond `seq` have come, the one after it has not.
    """

    stream: Name
    seq: Position
    digest: Digest
    at: Moment
    behind: bool = False


class TopicRoot(Struct, frozen=True, kw_only=True):
    """How many rows of one topic and source there are, and their Merkle root (`merkle`)."""

    topic: Name
    source: Source
    rows: Position
    root: Digest


class SnapshotRow(Struct, frozen=True, kw_only=True):
    """Topic `snapshot`: between `begin` and `end` every row ever sent came once more.

    `topics` (at the end only): all there is at the position of the end's packet. `complete` is
    false when the sender's own log does not reach back to its first row: what is missing in it
    may be right all the same.
    """

    snapshot_id: Annotated[str, Meta(min_length=1, max_length=36)]
    phase: Literal["begin", "end"]
    as_of: Moment
    topics: Annotated[list[TopicRoot], Meta(max_length=4096)] = []
    complete: bool = True


class ProofRow(Struct, frozen=True, kw_only=True):
    """Topic `proof`: what the receiver must hold of one topic and source at this position.

    `buckets`: the 256 digests `root` is made of (`merkle`). `complete`: as of SnapshotRow.
    """

    topic: Name
    source: Source
    rows: Position
    root: Digest
    buckets: Annotated[list[Digest], Meta(min_length=256, max_length=256)]
    complete: bool = True


class RowsWantedRow(Struct, frozen=True, kw_only=True):
    """Topic `rows_wanted`, in the opposite stream: these buckets of `stream` are not the same."""

    stream: Name
    topic: Name
    source: Source
    buckets: Annotated[list[Annotated[int, Meta(ge=0, le=255)]], Meta(min_length=1, max_length=256)]


class RepairRow(Struct, frozen=True, kw_only=True):
    """Topic `repair`: exactly these rows are in this part of a bucket, at this position.

    The part: keys after `after` ("" for the first) up to `upto`, None for the bucket's end, in
    byte order. `rows` are the rows' JSON, `keys` their keys, in the same order.
    """

    topic: Name
    source: Source
    bucket: Annotated[int, Meta(ge=0, le=255)]
    after: Annotated[str, Meta(max_length=MAX_KEY)]
    upto: Annotated[str, Meta(max_length=MAX_KEY)] | None
    keys: Annotated[list[Annotated[str, Meta(max_length=MAX_KEY)]], Meta(max_length=10_000)]
    rows: Annotated[list[msgspec.Raw], Meta(max_length=10_000)]
    complete: bool = True


TOPICS: dict[str, type[Struct]] = {
    "unit": UnitRow,
    "right": RightRow,
    "restriction": RestrictionRow,
    "certificate": CertificateRow,
    "case": CaseRow,
    "case_event": CaseEventRow,
    "fee_bill": FeeBillRow,
    "receipt": ReceiptRow,
    "refund_order": RefundOrderRow,
    "refund": RefundRow,
    "payment_evidence": PaymentEvidenceRow,
    "received_up_to": ReceivedUpToRow,
    "snapshot": SnapshotRow,
    "proof": ProofRow,
    "rows_wanted": RowsWantedRow,
    "repair": RepairRow,
}


class OnBadRow(StrEnum):
    """What a receiver does at a row it cannot take in: `stop` the stream until it is right, or
    `skip` it, kept and told (`refused`), while all the others go on."""

    stop = "stop"
    skip = "skip"


ON_BAD_ROW: dict[str, OnBadRow] = {
    # Each row is the whole newest word about one thing, nothing is added up over them, and no
    # other row of the stream is wrong without it: late for one thing is better than late for all.
    "unit": OnBadRow.skip,
    "certificate": OnBadRow.skip,
    "case": OnBadRow.skip,
    "case_event": OnBadRow.skip,
    # What is not there is read as "nothing stands against it": no seizure and no mortgage may be
    # passed over. Nor is a right by itself: of two owners one after the other both would be.
    "right": OnBadRow.stop,
    "restriction": OnBadRow.stop,
    # Money: nobody pays, gives back or reckons beside a row that is missing.
    "fee_bill": OnBadRow.stop,
    "refund_order": OnBadRow.stop,
    "receipt": OnBadRow.stop,
    "refund": OnBadRow.stop,
    "payment_evidence": OnBadRow.stop,
    # The streams' own words: a peer that spells them wrongly cannot be followed further.
    "received_up_to": OnBadRow.stop,
    "snapshot": OnBadRow.stop,
    "proof": OnBadRow.stop,
    "rows_wanted": OnBadRow.stop,
    "repair": OnBadRow.stop,
}
"""Topic -> its rule. A later topic that has none stops."""


def may_skip(topic: str) -> bool:
    """Whether a bad row of this topic may be set aside."""
    return ON_BAD_ROW.get(topic) is OnBadRow.skip


@functools.cache
def only_version(topic: str) -> int | None:
    """That of a topic whose things have but one, so that its rows need not say it."""
    fields = {one.name: one.default for one in msgspec.structs.fields(TOPICS[topic])}
    version = fields.get("version")
    return version if isinstance(version, int) else None


PROTOCOL = frozenset({"received_up_to", "snapshot", "proof", "rows_wanted", "repair"})
"""Rows of the gate itself: they speak of one moment, and newer ones take their place."""


def loose_topics() -> list[str]:
    """Topics whose rows name no thing and must cross all the same: parts of files."""
    return sorted(
        topic
        for topic, row_type in TOPICS.items()
        if topic not in PROTOCOL
        and not issubclass(row_type, ReceiptRow | RefundRow)
        and not _names_a_thing(row_type)
    )


class Identity(NamedTuple):
    """Which thing a row tells about, and how new it is."""

    source: str
    key: str
    version: int


def identity(topic: str, row: Struct) -> Identity | None:
    """None for what names no thing of its own: reports, proofs, parts of a file."""
    if isinstance(row, ReceiptRow):
        return Identity(row.source, f"{row.source_id}:{row.order_no}", 1)
    if isinstance(row, RefundRow):
        # The centre's order that was refused has no refund's number, and there may be several.
        number = row.refund_no or f":{row.order_source_id}"
        return Identity(row.source, f"{row.source_id}:{number}", row.version)
    if isinstance(row, PaymentEvidenceRow):
        key = f"{row.source_id}:{row.order_no}:{row.out_trade_no}"
        return Identity(row.source, key, row.version)
    if not _names_a_thing(type(row)):
        return None
    thing: Any = row
    return Identity(thing.source, thing.source_id, thing.version)


@functools.cache
def _names_a_thing(row_type: type[Struct]) -> bool:
    return {"source", "source_id", "version"} <= set(row_type.__struct_fields__)


class BadRow(Exception):
    """A row is not what its topic says; the text names field and kind, never the value."""


def encode_row(topic: str, row: Struct) -> bytes:
    """One row as canonical JSON, checked the way the receiver will check it.

    Raises BadRow when the peer would refuse it: better the sender's transaction fails than
    the stream stops on the other side.
    """
    if type(row) is not TOPICS.get(topic):
        raise BadRow(f"{type(row).__name__} is not the row of topic {topic}")
    if any(at.tzinfo is not UTC and _is_odd(at) for _, at in _moments_in(row)):
        raise BadRow("Expected an offset of whole minutes")
    encoded = msgspec.json.encode(row, order="sorted")
    decode_row(topic, encoded)
    return encoded


def _is_odd(at: datetime) -> bool:
    """Offsets of old have seconds (mean time of a place). RFC 3339 has none: the encoder rounds
    them, and the moment would be another one."""
    offset = at.utcoffset()
    return offset is not None and bool(offset % timedelta(minutes=1))


def decode_row(topic: str, body: bytes | str | Mapping[str, Any]) -> Struct:
    """The topic's Struct from JSON or from decoded JSON. Raises BadRow, KeyError for no topic."""
    if isinstance(body, Mapping):
        body = msgspec.json.encode(body)
    elif isinstance(body, str):
        body = body.encode()
    if NUL in body:
        raise BadRow("NUL character")
    return decode_clean(topic, body)


def decode_clean(topic: str, body: bytes | msgspec.Raw) -> Struct:
    """As `decode_row`, for JSON that was searched for NUL already."""
    row = _understood(topic, body)
    if fault := fault_of_moments(row, body):
        raise BadRow(fault)
    return row


def read(topic: str, body: bytes) -> tuple[Struct, "AsSent"]:
    """As `decode_clean`, with what the row is `as_sent`. Raises BadRow as both do."""
    row = _understood(topic, body)
    sent = as_sent(body, row)
    # Spelt as we would spell it: so are its moments, and nobody need look.
    fault = fault_of_moments(row, body) if sent.says_more else _fault_of_years(row)
    if fault:
        raise BadRow(fault)
    return row, sent


def _understood(topic: str, body: bytes | msgspec.Raw) -> Struct:
    row_type = TOPICS[topic]
    try:
        row = _decoder(row_type).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise BadRow(_without_values(str(problem))) from None
    for name in _ids_of(row_type):  # a pattern would cost ten times as much
        if ":" in getattr(row, name):
            raise BadRow(f"Expected an id without colon - at `$.{name}`")
    return row


def fault_of_moments(row: Struct, body: bytes | msgspec.Raw) -> str:
    """Which moment of the JSON `row` was read from is not spelt as it must be, or beyond
    FIRST_YEAR … LAST_YEAR; "" for none."""
    if (spelt := _spelt_moments(type(row))) is None:
        return ""
    try:
        spelt.decode(body)
    except msgspec.ValidationError as problem:
        place = str(problem).rpartition(" - at ")[2]
        return _fault_of_years(row) or f"Expected a moment as RFC 3339 spells it - at {place}"
    return ""


def _fault_of_years(row: Struct) -> str:
    far = (name for name, at in _moments_in(row) if not FIRST_YEAR <= at.year <= LAST_YEAR)
    return next((f"Expected a nearer year - at `$.{name}`" for name in far), "")


def _moments_in(row: Struct) -> Iterator[tuple[str, datetime]]:
    """Each with its place."""
    moments, nested = _moments_of(type(row))
    for name in moments:
        at: datetime | None = getattr(row, name)
        if at is not None:
            yield name, at
    for name in nested:
        inner: list[Struct] = getattr(row, name)
        for place, one in enumerate(inner):
            yield from ((f"{name}[{place}].{at}", found) for at, found in _moments_in(one))


@functools.cache
def _spelt_moments(row_type: type[Struct]) -> msgspec.json.Decoder[Any] | None:
    """Reads of a row only how its moments are spelt; None where it has none."""
    return msgspec.json.Decoder(_only_moments(row_type)) if any(_moments_of(row_type)) else None


def _only_moments(row_type: type[Struct]) -> type[Struct]:
    moments, nested = _moments_of(row_type)
    info: Any = msgspec.inspect.type_info(row_type)
    inner = {one.name: one.type.item_type.cls for one in info.fields if one.name in nested}
    text: Any = Annotated[str, Meta(pattern=MOMENT)]
    fields: list[tuple[str, Any, Any]] = [(name, text | None, None) for name in moments]
    fields += [(name, list[_only_moments(inner[name])], []) for name in nested]  # type: ignore[misc]
    return msgspec.defstruct(f"{row_type.__name__}Moments", fields, gc=False)


class Owner(Struct, frozen=True):
    """Whose a row of an unknown topic says it is; None where it does not say."""

    source: Any = None
    region: Any = None


_owner_decoder = msgspec.json.Decoder(Owner)


def owner_of(body: bytes | msgspec.Raw) -> Owner:
    """Of a row nobody here understands. What is no text is no source and no region."""
    try:
        found = _owner_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Owner()
    return Owner(*(x if isinstance(x, str) else None for x in (found.source, found.region)))


@functools.cache
def _decoder(row_type: type[Struct]) -> msgspec.json.Decoder[Struct]:
    return msgspec.json.Decoder(row_type)


@functools.cache
def _ids_of(row_type: type[Struct]) -> tuple[str, ...]:
    info: Any = msgspec.inspect.type_info(row_type)
    return tuple(one.name for one in info.fields if getattr(one.type, "extra", None) == _IS_ID)


@functools.cache
def _moments_of(row_type: type[Struct]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Its fields that are moments, and those that are lists of Structs with moments."""
    info: Any = msgspec.inspect.type_info(row_type)
    moments: list[str] = []
    nested: list[str] = []
    for one in info.fields:
        kind = one.type
        kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
        if any(isinstance(each, msgspec.inspect.DateTimeType) for each in kinds):
            moments.append(one.name)
        elif isinstance(kind, msgspec.inspect.ListType) and (
            isinstance(item := kind.item_type, msgspec.inspect.StructType)
            and any(_moments_of(item.cls))
        ):
            nested.append(one.name)
    return tuple(moments), tuple(nested)


class AsSent(NamedTuple):
    """A row's JSON exactly as it came, unknown fields included, and its digest.

    `says_more`: than the fields we know do, for tables that keep only such rows as they came.
    """

    body: bytes
    digest: bytes
    says_more: bool


def as_sent(body: bytes, row: Struct) -> AsSent:
    """Of a row and the JSON it was read from. Raises BadRow as `digest` does."""
    understood = msgspec.json.encode(row, order="sorted")
    # Most senders write the canonical form: what we understood is then all there is to read.
    spelt = body if body == understood else canonical(body)
    # Defaults that the sender left out count as more, too: rare, and it costs only space.
    return AsSent(body, hashlib.sha256(spelt).digest(), spelt != understood)


def digest(body: bytes) -> bytes:
    """SHA-256 over the row's canonical JSON: the same for every spelling of the same row.

    Raises BadRow as `canonical` does.
    """
    return hashlib.sha256(canonical(body)).digest()


def canonical(body: bytes) -> bytes:
    """As in a packet's manifest: UTF-8, keys sorted, no white space, no needless escapes.

    Raises BadRow for what has no such form (half a surrogate pair, fractions and exponents,
    integers beyond 64 bits), also deep inside fields this side does not know.
    """
    try:
        found = _whole_numbers.decode(body)
        if _LONG_NUMBER.search(body):
            _require_64_bits(found)
        return msgspec.json.encode(found, order="sorted")
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as problem:
        raise BadRow(f"no canonical form: {type(problem).__name__}") from None


def _no_fraction(text: str) -> None:
    raise ValueError("a number that is no integer")  # msgspec makes a DecodeError of it


_whole_numbers = msgspec.json.Decoder(float_hook=_no_fraction)
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def _require_64_bits(value: object) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise OverflowError
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            _require_64_bits(one)


def respelt(topic: str, stored: bytes) -> bytes:
    """Canonical, as receivers digest it: they then need not spell every row anew.

    Rows of topics we do not know leave as they are: nobody here can say what may be respelt.
    """
    if topic not in TOPICS:
        return stored
    try:
        return canonical(stored)
    except BadRow:
        return stored


def _without_values(message: str) -> str:
    """msgspec quotes the wrong value of an enumeration: that may be personal data."""
    return "Invalid enum value" + message.partition("' - ")[2] if "enum" in message else message
