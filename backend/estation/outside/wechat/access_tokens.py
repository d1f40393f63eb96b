"""Calls of the official account's API, and the token that every one of them needs.

The token is asked for as a stable one: every worker is given the same, and nobody's asking ends
another's. Within a program one asks and the others wait for its answer. Source: WeChat official
accounts, 获取稳定版接口调用凭据.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp

from estation.outside.wechat import WechatRefused, WechatUnavailable
from estation.outside.wechat.calling import post_object
from estation.settings import Wechat
from estation.shared.clock import BEIJING, Clock
from estation.shared.key_files import KeyFiles, read_word

TOKEN_REFUSED: Final = frozenset({40001, 40014, 42001})
"""The token is another one, no token, or over."""
QUOTA_USED: Final = 45009
"""So many calls of this one are all there are today."""
_EARLY: Final = timedelta(seconds=60)
_FORCE_APART: Final = timedelta(seconds=30)
"""WeChat's own bound on ending the old token; and twenty a day."""


class OfficialAccountApi:
    """One account's calls; for one program, on one loop."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        api_url: str,
        appid: str,
        secret: Callable[[], str],
        clock: Clock,
    ) -> None:
        self._session = session
        self._api_url = api_url.rstrip("/")
        self._appid = appid
        self._secret = secret
        self._clock = clock
        self._asking = asyncio.Lock()
        self._token = ""
        self._good_until: datetime | None = None
        self._forced_at: datetime | None = None
        self._resting: dict[str, datetime] = {}

    @classmethod
    def from_settings(
        cls,
        session: aiohttp.ClientSession,
        wechat: Wechat,
        files: KeyFiles,
        clock: Clock,
    ) -> "OfficialAccountApi":
        return cls(
            session,
            api_url=wechat.api_url,
            appid=wechat.appid,
            secret=files.watch(wechat.secret_file, parse=read_word).current,
            clock=clock,
        )

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST `body` to `path` (below the API's address). A token that is refused is renewed
        once. Once the day's calls are used up none is made before the next day in Beijing.

        Raises WechatRefused, WechatUnavailable.
        """
        self._check_quota(path)
        token = await self._current()
        try:
            return await self._call(path, body, token)
        except WechatRefused as refused:
            if refused.errcode not in TOKEN_REFUSED:
                raise
        return await self._call(path, body, await self._renewed(token))

    async def _call(self, path: str, body: dict[str, Any], token: str) -> dict[str, Any]:
        address = f"{self._api_url}{path}?{urlencode({'access_token': token})}"
        return await self._within_quota(path, address, body)

    async def _current(self) -> str:
        async with self._asking:
            if self._good_until is None or self._clock() >= self._good_until - _EARLY:
                await self._ask(force=False)
            return self._token

    async def _renewed(self, refused: str) -> str:
        """Another token than the one refused; whoever comes second takes what the first got."""
        async with self._asking:
            if self._token == refused:
                await self._ask(force=False)
            if self._token == refused:
                await self._force(refused)
            return self._token

    async def _force(self, refused: str) -> None:
        """WeChat thinks it good and refuses it all the same: have it ended, seldom."""
        now = self._clock()
        if self._forced_at is not None and now - self._forced_at < _FORCE_APART:
            raise WechatRefused(40001, "a new token was refused as well")
        self._forced_at = now
        await self._ask(force=True)

    async def _ask(self, *, force: bool) -> None:
        path = "/cgi-bin/stable_token"
        self._check_quota(path)
        now = self._clock()
        answer = await self._within_quota(
            path,
            f"{self._api_url}{path}",
            {
                "grant_type": "client_credential",
                "appid": self._appid,
                "secret": self._secret(),
                "force_refresh": force,
            },
        )
        token, seconds = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not 0 < len(token) <= 2048:
            raise WechatUnavailable("no token")
        if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds <= 0:
            raise WechatUnavailable("no life of the token")
        self._token, self._good_until = token, now + timedelta(seconds=min(seconds, 7200))

    async def _within_quota(self, path: str, address: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return await post_object(self._session, address, body)
        except WechatRefused as refused:
            if refused.errcode == QUOTA_USED:
                self._resting[path] = self._clock()
            raise

    def _check_quota(self, path: str) -> None:
        since = self._resting.get(path)
        if since is None:
            return
        if self._clock().astimezone(BEIJING).date() == since.astimezone(BEIJING).date():
            raise WechatRefused(QUOTA_USED, "the day's calls are used up")
        del self._resting[path]
