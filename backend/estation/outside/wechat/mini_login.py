"""Login inside the mini-program (小程序登录): who opened it, by openid only.

Source: WeChat mini-programs, code2Session.
"""

from collections.abc import Callable
from urllib.parse import quote, urlencode

import aiohttp

from estation.outside.wechat import WechatIdentity
from estation.outside.wechat.calling import get_object, identity_in
from estation.settings import MiniProgram
from estation.shared.key_files import KeyFiles, read_word


class MiniLogin:
    """Implements MiniProgramPlatform."""

    def __init__(
        self, session: aiohttp.ClientSession, *, api_url: str, appid: str, secret: Callable[[], str]
    ) -> None:
        self._session = session
        self._api_url = api_url.rstrip("/")
        self._appid = appid
        self._secret = secret

    @classmethod
    def from_settings(
        cls,
        session: aiohttp.ClientSession,
        mini_program: MiniProgram,
        *,
        api_url: str,
        files: KeyFiles,
    ) -> "MiniLogin":
        return cls(
            session,
            api_url=api_url,
            appid=mini_program.appid,
            secret=files.watch(mini_program.secret_file, parse=read_word).current,
        )

    @property
    def appid(self) -> str:
        return self._appid

    async def identity_from_mini_code(self, js_code: str) -> WechatIdentity:
        """A code works once, for five minutes. The session key that comes with it ends here.

        Raises WechatRefused (40029 invalid, 40163 used, 45011 too many, 40226 risky user),
        WechatUnavailable.
        """
        query = {
            "appid": self._appid,
            "secret": self._secret(),
            "js_code": js_code,
            "grant_type": "authorization_code",
        }
        encoded = urlencode(query, quote_via=quote, safe="")
        address = f"{self._api_url}/sns/jscode2session?{encoded}"
        return identity_in(await get_object(self._session, address))
