"""Every way a packet is refused, and why a stream stands still."""

from enum import StrEnum

from estation.shared.errors import InvalidInput, NotFound, Refused


class Reason(StrEnum):
    """Stable codes, written into the database and shown to staff."""

    foreign_name = "foreign_name"  # not a packet's file name
    foreign_stream = "foreign_stream"  # a packet of another stream
    not_a_file = "not_a_file"  # folder, link, pipe …
    flood = "flood"  # more junk at once than is worth keeping
    too_large = "too_large"
    bad_manifest = "bad_manifest"  # unreadable, not canonical, or a field is wrong
    unsupported_version = "unsupported_version"
    name_mismatch = "name_mismatch"  # the manifest says another stream or seq than the name
    bad_seal = "bad_seal"
    truncated = "truncated"  # fewer or more bytes than the manifest says
    bad_digest = "bad_digest"
    zip_bomb = "zip_bomb"  # would grow beyond what it says or what we allow
    bad_body = "bad_body"  # not one zstd frame of lines
    bad_count = "bad_count"
    row_too_long = "row_too_long"
    bad_encoding = "bad_encoding"  # not UTF-8, or contains NUL
    bad_row = "bad_row"
    fork = "fork"  # rightly sealed, but of another history than the one we applied
    gap = "gap"  # nothing wrong with what is here; something before it is missing
    handler_failed = "handler_failed"  # our side could not store it; tried again later


NEEDS_A_PERSON = frozenset({Reason.fork})
"""After these the stream goes on only when a person said so: two histories carry our seal."""
HEALS_ITSELF = frozenset({Reason.gap, Reason.handler_failed})
"""Of all for which a stream stands still, these accuse nobody: it waits, and tries again. For any
other somebody is told at once."""


class BadPacket(Exception):
    """The file is not an acceptable packet. `detail` holds no personal data."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RowRefused(Exception):
    """Raised by a handler: this row can never be accepted. The file is quarantined as bad_row.

    So does what says that no table holds such a value (`is_about_a_value`). Any other exception
    of a handler means "not now": the file stays and is tried again.

    `position`: which of the handler's rows it is, when nothing is wrong but that row; it is then
    set aside where its topic's rule says so (`rows.ON_BAD_ROW`). None when the refusal is about
    who may write it: that stops the stream whatever the topic.
    """

    def __init__(self, detail: str = "", *, position: int | None = None) -> None:
        super().__init__(detail)
        self.position = position


def is_about_a_value(failure: Exception) -> bool:
    """Whether it is the row's own fault: its values do not fit, and will not later."""
    if isinstance(failure, (OverflowError, ValueError)):
        return True
    # Class 22 of SQL: data exceptions, raised by the server or before anything is sent to it.
    causes = (failure, failure.__cause__, *failure.args)
    return any(str(getattr(one, "sqlstate", None) or "").startswith("22") for one in causes)


class PeerUnknown(NotFound):
    """No peer of this name, or none that speaks for this source."""

    code = "gate_peer_unknown"
    message = "光闸没有登记这个数据来源。"


class RowNotSetAside(NotFound):
    """No row of this number is set aside, or it is over already."""

    code = "gate_row_not_set_aside"
    message = "没有这一行隔离的记录，或它已经了结。"


class PeerNotAcceptable(InvalidInput):
    """A peer cannot be added or changed like this; `details["field"]` says what is wrong."""

    code = "gate_peer_not_acceptable"
    message = "登记的内容有误：名称只用小写字母、数字和连字符，区划代码为 2 至 6 位数字。"


class PeerTaken(Refused):
    """Another peer has this name, source, folder or key already."""

    code = "gate_peer_taken"
    message = "这个名称、来源、目录或公钥已登记给另一方。"


class SymbolsNotPossible(InvalidInput):
    """The wheel is not installed, or the folder or the share of repair symbols is none."""

    code = "gate_symbols_not_possible"
    message = "不能分块编码：须先安装扩展 raptorq，目录须为绝对路径，冗余比例为 0 至 400。"


class KeyNotAcceptable(InvalidInput):
    """Not a public key that can seal packets, or not on this installation."""

    code = "gate_key_not_acceptable"
    message = "公钥文件无法识别，应为 PEM 格式的 Ed25519 或国密 SM2 公钥（SM2 须先安装扩展 sm）。"


class LastKey(Refused):
    """Without this key nothing could be sealed or recognised any more."""

    code = "gate_last_key"
    message = "这是唯一有效的密钥，请先登记新的密钥再停用它。"


class ReasonMissing(InvalidInput):
    """What a person does to a stream is written down with the reason."""

    code = "gate_reason_missing"
    message = "请写明原因（最多 500 字）。"
