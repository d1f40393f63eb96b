"""WeChat Pay's desk: answers signed as it signs them, and the check of what we signed."""

import json
import re
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.outside.counterparts import MCHID, NOW, verify, wechat_signature
from tests.outside.listening import Heard, Listener, Reply


@dataclass
class Desk:
    channel: Any
    there: Listener

    def say(self, *replies: Reply) -> None:
        self.there.say(*replies)

    @property
    def heard(self) -> list[Heard]:
        return self.there.heard


def right(content: Any, *, status: int = 200, **signature: str) -> web.Response:
    body = b"" if content is None else json.dumps(content, ensure_ascii=False).encode()
    headers = wechat_signature(body, **signature)
    return web.Response(status=status, body=body, headers=headers)


def wrong(status: int, code: str) -> web.Response:
    """An error as WeChat Pay sends it: not signed."""
    return web.json_response(
        {"code": code, "message": "…"}, status=status, headers={"Request-ID": "08F78BB3CF06"}
    )


def check_authorization(heard: Heard, *, mchid: str = MCHID) -> None:
    scheme, _, rest = heard.headers["authorization"].partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    # The merchant's base address stands for the host: the signed path begins after it.
    target = heard.target.removeprefix("/wechat-pay")
    head = f"{heard.method}\n{target}\n{fields['timestamp']}\n{fields['nonce_str']}\n"
    verify("merchant", head.encode() + heard.body + b"\n", fields["signature"])
    assert scheme == "WECHATPAY2-SHA256-RSA2048"
    assert fields["mchid"] == mchid
    assert fields["timestamp"] == str(int(NOW.timestamp()))
    assert len(fields["nonce_str"]) == 32
