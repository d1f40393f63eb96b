"""Troubles ordered for the next k deliveries, answers or refunds; kept until used up."""

import json
from dataclasses import dataclass
from typing import Any

from estation.sandbox.store import Row, Store

KINDS: dict[tuple[str, str], frozenset[str]] = {
    ("notice", "wechat_pay"): frozenset(
        {
            "hold",  # not sent at all: the delivery is lost
            "duplicate",  # options: copies (sent in parallel beside the first)
            "signtest",  # a deliberately wrong WECHATPAY/SIGNTEST/ signature
            "missing_signature",
            "stale",  # options: seconds (default 400) before real now, rightly signed
            "future",  # options: seconds (default 400) after real now, rightly signed
            "unknown_serial",  # signed by a key the merchant has never heard of
            "other_key",  # the right serial over another key's signature
            "tampered",  # one byte of the body changed after signing
            "alter",  # options: fields, merged into the plaintext: a rightly signed lie
        }
    ),
    ("notice", "alipay"): frozenset(
        {"hold", "duplicate", "missing_signature", "other_key", "tampered", "alter", "gbk"}
    ),
    ("answer", "wechat_pay"): frozenset(
        {
            "signtest",
            "missing_signature",
            "stale",
            "future",
            "unknown_serial",
            "other_key",
            "status_429",  # refused before anything happens
            "status_500",  # refused before anything happens
            "status_500_after",  # it happened, and yet the answer is SYSTEM_ERROR
            "delay",  # options: seconds (≤ 60) between commit and answer
        }
    ),
    ("answer", "alipay"): frozenset(
        {"missing_signature", "other_key", "unavailable", "unavailable_after", "delay"}
    ),
    ("prepay", "wechat_pay"): frozenset(
        {"paid_before_answer"}  # options: persona; the notice arrives before the prepay answer
    ),
    ("refund", "wechat_pay"): frozenset({"abnormal", "closed"}),
}


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    options: dict[str, Any]

    def seconds(self, default: float) -> float:
        return float(self.options.get("seconds", default))


class UnknownFault(ValueError):
    """This target and channel have no such trouble."""


class Faults:
    def __init__(self, store: Store) -> None:
        self._store = store

    def order(
        self, *, target: str, channel: str, kind: str, count: int, options: dict[str, Any]
    ) -> None:
        """Apply `kind` to the next `count` events. Raises UnknownFault."""
        if kind not in KINDS.get((target, channel), frozenset()) or not 1 <= count <= 100_000:
            raise UnknownFault(f"{target}/{channel}/{kind}")
        self._store.insert(
            "fault",
            target=target,
            channel=channel,
            kind=kind,
            remaining=count,
            options=json.dumps(options),
        )

    def take(self, target: str, channel: str) -> Fault | None:
        """The oldest trouble ordered here, one use of it gone; None in good weather."""
        row = self._store.row(
            "select * from fault where target = ? and channel = ? order by id limit 1",
            target,
            channel,
        )
        if row is None:
            return None
        self._use(row)
        return Fault(row["kind"], json.loads(row["options"]))

    def _use(self, row: Row) -> None:
        if row["remaining"] > 1:
            self._store.run("update fault set remaining = remaining - 1 where id = ?", row["id"])
        else:
            self._store.run("delete from fault where id = ?", row["id"])

    def waiting(self) -> list[dict[str, Any]]:
        return [
            {**dict(row), "options": json.loads(row["options"])}
            for row in self._store.rows("select * from fault order by id")
        ]

    def clear(self) -> None:
        self._store.run("delete from fault")
