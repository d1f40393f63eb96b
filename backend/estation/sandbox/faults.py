"""Troubles ordered for the next k deliveries, answers or refunds; kept until used up."""

import json
from dataclasses import dataclass
from typing import Any

from estation.sandbox.store import Row, Store

KINDS: dict[tuple[str, str], frozenset[str]] = {
    ("notice", "wechat_pay"): frozenset(
        {
            "hold",  # not sent at all: the delivery is lost
            "delay",  # options: seconds (default 60, ≤ 25 h) the first delivery comes later
            "reorder",  # held back until a later notice has gone out (≤ 25 h)
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
        {
            *("hold", "delay", "reorder", "duplicate"),
            *("missing_signature", "other_key", "tampered", "alter", "gbk"),
            "unknown_serial",  # certificate mode: an alipay_cert_sn nobody issued
        }
    ),
    ("answer", "wechat_pay"): frozenset(
        {
            "signtest",
            "missing_signature",
            "stale",
            "future",
            "unknown_serial",
            "other_key",
            "status_202",  # accepted and unknown: nothing happened yet
            "status_202_after",  # accepted and unknown: it did happen
            "status_429",  # refused before anything happens
            "status_500",  # refused before anything happens
            "status_500_after",  # it happened, and yet the answer is SYSTEM_ERROR
            "status_503",  # refused before anything happens
            "not_found",  # a query is told that there is no such order
            "alter",  # options: fields, merged into the answer: a rightly signed lie
            "delay",  # options: seconds (≤ 60) between commit and answer
        }
    ),
    ("answer", "alipay"): frozenset(
        {
            *("missing_signature", "other_key", "unavailable", "unavailable_after", "delay"),
            *("not_found", "alter"),
            "unknown_serial",  # certificate mode: an alipay_cert_sn nobody issued
            "gateway_error",  # an unsigned error_response in GBK; nothing happened
            "gateway_error_after",  # the same, and yet it happened
            "retry",  # alipay.trade.cancel does nothing and says retry_flag Y
        }
    ),
    ("message", "wechat"): frozenset(
        {
            "late",  # the answer comes after the five seconds; told again, up to twice
            "double",  # two deliveries in parallel
            "other_token",  # signed with a token that is not the account's
            "stale",  # rightly signed 400 s ago
            "other_appid",  # encrypted modes: rightly sealed, to another account
            "tampered",  # the sealed or the plain text was changed after signing
            "in_clear",  # encrypted modes: comes unencrypted all the same
        }
    ),
    ("api", "wechat"): frozenset(
        {
            "token_refused",  # 40001 whatever token is shown
            "token_expired",  # 42001 whatever token is shown
            "token_ended",  # somebody else had the token ended: 40001 until it is asked for anew
            "quota",  # 45009
            "busy",  # -1
            "slow",  # options: seconds (default 1), before it is answered
        }
    ),
    ("prepay", "wechat_pay"): frozenset(
        {"paid_before_answer"}  # options: persona; the notice arrives before the prepay answer
    ),
    ("refund", "wechat_pay"): frozenset(
        {
            "abnormal",
            "closed",
            "not_enough",  # refused: the merchant's account holds too little
            "slow",  # options: seconds (default 3600) until it is done
        }
    ),
    ("refund", "alipay"): frozenset(
        {
            "not_enough",
            "processing",  # options: seconds (default 10) until it is done
            "fail",  # options: seconds (default 10) until it has failed
        }
    ),
}
"""Every trouble takes `only`: a text the event must contain, so that it does not hit another
one: an order number, an event word, a path or method, or for answers op:prepay, op:query,
op:close, op:refund, op:find_refund."""


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    options: dict[str, Any]

    def seconds(self, default: float) -> float:
        """Raises ValueError when what was ordered is no number."""
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
        if not isinstance(options.get("fields", {}), dict):
            raise UnknownFault("fields is no object")
        Fault(kind, options).seconds(0)
        self._store.insert(
            "fault",
            target=target,
            channel=channel,
            kind=kind,
            remaining=count,
            options=json.dumps(options),
        )

    def take(self, target: str, channel: str, event: str) -> Fault | None:
        """The oldest trouble ordered for this, one use of it gone; None in good weather.

        `event` is what `only` is looked for in.
        """
        waiting = self._store.rows(
            "select * from fault where target = ? and channel = ? order by id", target, channel
        )
        for row in waiting:
            fault = Fault(row["kind"], json.loads(row["options"]))
            if str(fault.options.get("only", "")) in event:
                self._use(row)
                return fault
        return None

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

    def withdraw(self, fault_id: int) -> None:
        self._store.run("delete from fault where id = ?", fault_id)

    def clear(self) -> None:
        self._store.run("delete from fault")
