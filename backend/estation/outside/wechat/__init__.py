"""WeChat: web login, messages and API of the official account (公众号), login of the mini-program
(小程序)."""

from dataclasses import dataclass
from typing import Any, Protocol


class WechatRefused(Exception):
    """WeChat's errcode says no, e.g. 40029 invalid code, 40163 code used."""

    def __init__(self, errcode: int, errmsg: str) -> None:
        super().__init__(f"{errcode}: {errmsg}")
        self.errcode = errcode


class WechatUnavailable(Exception):
    """Time-out, bad gateway or unreadable answer."""


@dataclass(frozen=True, slots=True)
class WechatIdentity:
    """Who scanned or opened; `is_snapshot_user` marks preview mode's fake user: never bind it."""

    openid: str
    unionid: str | None = None
    is_snapshot_user: bool = False


class WechatPlatform(Protocol):
    @property
    def appid(self) -> str: ...

    def authorize_url(self, *, redirect_uri: str, state: str) -> str: ...

    async def identity_from_code(self, code: str) -> WechatIdentity: ...


class MiniProgramPlatform(Protocol):
    @property
    def appid(self) -> str: ...

    async def identity_from_mini_code(self, js_code: str) -> WechatIdentity: ...


class AccountApi(Protocol):
    """The official account's API, with whatever token it needs."""

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]: ...
