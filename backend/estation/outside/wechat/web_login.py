"""Web login inside WeChat (网页授权): who opened the page, by openid only.

Source: WeChat official accounts, 网页授权.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from estation.outside.wechat import WechatIdentity, WechatRefused, WechatUnavailable
from estation.settings import Wechat

_CALL_SECONDS = 5.0
_ANSWER_BYTES = 64 * 1024
_BUSY = -1
_STATE = re.compile(r"[A-Za-z0-9_-]{1,128}")


class WebLogin:
    """Implements WechatPlatform with silent authorisation (snsapi_base)."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        api_url: str,
        oauth_url: str,
        appid: str,
        secret: str,
    ) -> None:
        self._session = session
        self._api_url = api_url.rstrip("/")
        self._oauth_url = oauth_url.rstrip("/")
        self._appid = appid
        self._secret = secret

    @classmethod
    def from_settings(
        cls, session: aiohttp.ClientSession, wechat: Wechat, secret: Callable[[str], bytes]
    ) -> "WebLogin":
        return cls(
            session,
            api_url=wechat.api_url,
            oauth_url=wechat.oauth_url,
            appid=wechat.appid,
            secret=secret(wechat.secret_file).decode().strip(),
        )

    @property
    def appid(self) -> str:
        return self._appid

    def authorize_url(self, *, redirect_uri: str, state: str) -> str:
        """Where to send the browser. Bind `state` (1-128 of A-Z a-z 0-9 _ -) to the session.

        WeChat wants the parameters in this order and the fragment at the end.
        """
        if not _STATE.fullmatch(state):
            raise ValueError("state must be 1 to 128 of A-Z a-z 0-9 _ -")
        return (
            f"{self._oauth_url}/connect/oauth2/authorize?appid={self._appid}"
            f"&redirect_uri={quote(redirect_uri, safe='')}"
            f"&response_type=code&scope=snsapi_base&state={state}#wechat_redirect"
        )

    async def identity_from_code(self, code: str) -> WechatIdentity:
        """A code works once, for five minutes.

        Raises WechatRefused (40029 invalid, 40163 used, 42003 expired), WechatUnavailable.
        """
        query = {
            "appid": self._appid,
            "secret": self._secret,
            "code": code,
            "grant_type": "authorization_code",
        }
        encoded = urlencode(query, quote_via=quote, safe="")
        answer = await self._get(f"{self._api_url}/sns/oauth2/access_token?{encoded}")
        openid = answer.get("openid")
        unionid = answer.get("unionid")
        if not isinstance(openid, str) or not 0 < len(openid) <= 128:
            raise WechatUnavailable("no openid")
        return WechatIdentity(
            openid=openid,
            unionid=unionid if isinstance(unionid, str) and unionid else None,
            is_snapshot_user=answer.get("is_snapshotuser") == 1,
        )

    async def _get(self, url: str) -> dict[str, Any]:
        """The JSON object without an error in it: errcode comes with HTTP 200."""
        try:
            async with self._session.get(
                URL(url, encoded=True),
                timeout=aiohttp.ClientTimeout(total=_CALL_SECONDS),
                headers={"Accept-Encoding": "identity"},
                allow_redirects=False,
            ) as response:
                status = response.status
                body = await _read(response.content)
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            # The address holds the secret: only the failure's name may travel.
            raise WechatUnavailable(type(failure).__name__) from None
        if status != 200:
            raise WechatUnavailable(f"status {status}")
        return _checked(body)


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for chunk in content.iter_chunked(8 * 1024):
        body += chunk
        if len(body) > _ANSWER_BYTES:
            raise WechatUnavailable("oversized answer")
    return bytes(body)


def _checked(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise WechatUnavailable("unreadable answer") from None
    if not isinstance(answer, dict):
        raise WechatUnavailable("unreadable answer")
    errcode = answer.get("errcode", 0)
    if not isinstance(errcode, int) or errcode == _BUSY:
        raise WechatUnavailable(f"errcode {errcode}")
    if errcode != 0:
        raise WechatRefused(errcode, str(answer.get("errmsg", ""))[:200])
    return answer
