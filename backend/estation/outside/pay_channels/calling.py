"""One HTTP exchange with a channel: always a time limit and a size limit, never a redirect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from estation.outside.pay_channels import ChannelUnknown

USER_AGENT = "estation/0.1"
CALL_SECONDS = 10.0
FILE_SECONDS = 120.0
ANSWER_BYTES = 1024 * 1024
BILL_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, unread; header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        return self.headers.get("request-id", "")


@dataclass(frozen=True, slots=True)
class Limits:
    seconds: float = CALL_SECONDS
    answer_bytes: int = ANSWER_BYTES


CALL = Limits()
FILE = Limits(seconds=FILE_SECONDS, answer_bytes=BILL_BYTES)


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes = b"",
    limits: Limits = CALL,
) -> Answer:
    """Send exactly these bytes to exactly this (already encoded) address.

    Raises ChannelUnknown when no whole answer arrived: the channel may have acted all the same.
    """
    options: dict[str, Any] = {
        "headers": {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
        "timeout": aiohttp.ClientTimeout(total=limits.seconds),
        # A redirect would carry a signed request to a host we did not choose.
        "allow_redirects": False,
    }
    if body:
        options["data"] = body
    try:
        # Without `encoded` yarl would re-quote the path, and the signature covers it as written.
        async with session.request(method, URL(url, encoded=True), **options) as response:
            return Answer(
                status=response.status,
                headers={name.lower(): value for name, value in response.headers.items()},
                body=await _read(response.content, limits.answer_bytes),
            )
    except TimeoutError as failure:
        raise ChannelUnknown("TIMEOUT", f"no answer within {limits.seconds} s") from failure
    except (aiohttp.ClientError, OSError) as failure:
        raise ChannelUnknown("UNREACHABLE", type(failure).__name__) from failure


async def _read(content: aiohttp.StreamReader, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in content.iter_chunked(64 * 1024):
        size += len(chunk)
        if size > most:
            raise ChannelUnknown("OVERSIZED", f"more than {most} bytes")
        parts.append(chunk)
    return b"".join(parts)
