"""One question to WeChat's API: a time limit, a size limit, and never the secret in an error."""

from typing import Any

import aiohttp
import orjson
from yarl import URL

from estation.outside.wechat import WechatIdentity, WechatRefused, WechatUnavailable

_CALL_SECONDS = 5.0
_ANSWER_BYTES = 64 * 1024
_BUSY = -1


async def get_object(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """The JSON object without an error in it: errcode comes with HTTP 200.

    Raises WechatRefused, WechatUnavailable.
    """
    return await _object(session, "GET", url, None)


async def post_object(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any]
) -> dict[str, Any]:
    """As `get_object`, with a JSON body: WeChat reads Chinese as it is, not escaped."""
    return await _object(session, "POST", url, orjson.dumps(body))


async def _object(
    session: aiohttp.ClientSession, method: str, url: str, body: bytes | None
) -> dict[str, Any]:
    headers = {"Accept-Encoding": "identity"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        async with session.request(
            method,
            URL(url, encoded=True),
            data=body,
            timeout=aiohttp.ClientTimeout(total=_CALL_SECONDS),
            headers=headers,
            allow_redirects=False,
        ) as response:
            status = response.status
            body = await _read(response.content)
    except (aiohttp.ClientError, TimeoutError, OSError) as failure:
        # The address holds the secret or a token: only the failure's name may travel.
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


def identity_in(answer: dict[str, Any]) -> WechatIdentity:
    """Nothing else of the answer goes on: it may hold a session key or tokens.

    Raises WechatUnavailable when it names nobody.
    """
    openid = answer.get("openid")
    unionid = answer.get("unionid")
    if not isinstance(openid, str) or not 0 < len(openid) <= 128:
        raise WechatUnavailable("no openid")
    return WechatIdentity(
        openid=openid,
        unionid=unionid if isinstance(unionid, str) and unionid else None,
        is_snapshot_user=answer.get("is_snapshotuser") == 1,
    )
