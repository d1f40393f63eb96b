"""Notices as Alipay sends them: a signed form, until the body says exactly `success`."""

import json
from datetime import datetime
from urllib.parse import urlencode
from uuid import UUID

from estation.sandbox import world
from estation.sandbox.alipay import protocol
from estation.sandbox.clocks import TwoClocks
from estation.sandbox.faults import Fault
from estation.sandbox.keys import KeyRing
from estation.sandbox.notifier import Outgoing
from estation.sandbox.store import Row
from estation.shared.clock import BEIJING

_MINUTE, _HOUR = 60, 3600


class AlipayNotices:
    gaps = (
        *(4 * _MINUTE, 10 * _MINUTE, 10 * _MINUTE),
        *(1 * _HOUR, 2 * _HOUR, 6 * _HOUR, 15 * _HOUR),
    )

    def __init__(self, keys: KeyRing, clocks: TwoClocks) -> None:
        self._keys = keys
        self._clocks = clocks

    def is_accepted(self, status: int, reply: bytes) -> bool:
        return status == 200 and reply == b"success"

    def compose(self, notice: Row, fault: Fault | None) -> Outgoing:
        kind = fault.kind if fault else ""
        news: dict[str, str] = json.loads(notice["plaintext"])
        charset = "gbk" if kind == "gbk" else news["charset"]
        fields = {
            **news,
            "charset": charset.upper(),
            "notify_id": f"{UUID(notice['id']).hex}kq",
            "notify_time": self._now().strftime("%Y-%m-%d %H:%M:%S"),
        }
        if fault is not None and kind == "alter":
            fields = protocol.altered(fields, fault)
        app = world.alipay_app(notice["account"]) or world.KEY_APP
        form = signed_form(fields, self._keys, app, charset, kind=kind)
        if kind == "missing_signature":
            del form["sign"]
        if kind == "tampered":
            form["total_amount"] = "0.01" if form["total_amount"] != "0.01" else "0.02"
        coding = protocol.CHARSETS[charset]
        return Outgoing(
            {
                "Content-Type": f"application/x-www-form-urlencoded; charset={charset}",
                "User-Agent": "Mozilla/4.0",
            },
            urlencode(form, encoding=coding).encode(),
        )

    def _now(self) -> datetime:
        return self._clocks.now().astimezone(BEIJING)


def signed_form(
    fields: dict[str, str],
    keys: KeyRing,
    app: world.AlipayApp,
    charset: str,
    *,
    kind: str = "",
) -> dict[str, str]:
    """Fields with sign and sign_type, which themselves are not signed, nor is the number of the
    certificate that certificate mode adds. `kind` is that of a fault."""
    text = protocol.sign_text(fields, without=frozenset({"sign", "sign_type"}))
    message = text.encode(protocol.CHARSETS[charset])
    made = protocol.sign(keys, message, app, purpose="notices", kind=kind)
    number = {"alipay_cert_sn": made.cert_sn} if made.cert_sn else {}
    return {**fields, **number, "sign_type": "RSA2", "sign": made.signature}
