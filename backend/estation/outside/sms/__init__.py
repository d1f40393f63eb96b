"""Short messages (短信): one sender contract, and the sandbox's HTTP sender."""

from typing import Protocol

import aiohttp


class SmsFailed(Exception):
    """The message may not have been sent; the citizen may ask again."""


class SmsSender(Protocol):
    async def send(self, *, phone: str, text: str) -> None: ...


class HttpSms:
    """Posts {phone, text} as JSON to the operator's endpoint; five seconds, no retry."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def send(self, *, phone: str, text: str) -> None:
        """Raises SmsFailed on any answer but 2xx and on time-outs."""
        try:
            async with self._session.post(
                self._url,
                json={"phone": phone, "text": text},
                timeout=aiohttp.ClientTimeout(total=5),
                allow_redirects=False,
            ) as answer:
                if answer.status >= 300:
                    raise SmsFailed(f"status {answer.status}")
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise SmsFailed(type(failure).__name__) from failure
