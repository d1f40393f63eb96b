"""Web login inside WeChat (网页授权): who opened the page, by openid only.

Source: WeChat official accounts, 网页授权.
"""

import re
from collections.abc import Callable
from urllib.parse import quote, urlencode

import aiohttp

from estation.outside.wechat import WechatIdentity
from estation.outside.wechat.calling import get_object, identity_in
from estation.settings import Wechat
from estation.shared.key_files import KeyFiles, read_word

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
        secret: Callable[[], str],
    ) -> None:
        self._session = session
        self._api_url = api_url.rstrip("/")
        self._oauth_url = oauth_url.rstrip("/")
        self._appid = appid
        self._secret = secret

    @classmethod
    def from_settings(
        cls, session: aiohttp.ClientSession, wechat: Wechat, files: KeyFiles
    ) -> "WebLogin":
        return cls(
            session,
            api_url=wechat.api_url,
            oauth_url=wechat.oauth_url,
            appid=wechat.appid,
            secret=files.watch(wechat.secret_file, parse=read_word).current,
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
            "secret": self._secret(),
            "code": code,
            "grant_type": "authorization_code",
        }
        encoded = urlencode(query, quote_via=quote, safe="")
        address = f"{self._api_url}/sns/oauth2/access_token?{encoded}"
        return identity_in(await get_object(self._session, address))
