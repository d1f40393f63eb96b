"""Walks through the city over HTTP as people do: a citizen, a clerk at the fee desk, a wallet."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp

T = TypeVar("T")
WAIT_SECONDS = 30.0


class ChainBroken(Exception):
    """A step did not do what it must; the text names the step and what was seen."""


async def eventually(
    what: str, look: Callable[[], Awaitable[T | None]], *, seconds: float = WAIT_SECONDS
) -> T:
    """Look every 0.2 s until there is something. Raises ChainBroken naming `what`.

    A refused connection counts as "nothing yet": programs may be on their way back.
    """
    deadline = time.monotonic() + seconds
    trouble = ""
    while time.monotonic() < deadline:
        try:
            found = await look()
            if found is not None:
                return found
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as failure:
            trouble = f"（最后一次：{type(failure).__name__}）"
        await asyncio.sleep(0.2)
    raise ChainBroken(f"{seconds:.0f} 秒内没有等到：{what}{trouble}")


class Wallet:
    """A person's phone at the sandbox: reads short messages, scans codes, pays."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str) -> None:
        self._http = http
        self._base = base_url

    async def last_code(self, phone: str) -> str:
        """The newest six-digit login code sent to this phone."""

        async def look() -> str | None:
            async with self._http.get(
                f"{self._base}/control/sms", params={"phone": phone}
            ) as answer:
                messages = (await answer.json())["messages"]
            found = [re.search(r"\b(\d{6})\b", message["text"]) for message in messages]
            return next((match.group(1) for match in found if match), None)

        return await eventually("登录验证码短信", look)

    async def pay(self, code: str) -> dict[str, Any]:
        """Scan this code and pay what it asks."""
        return await self.control("pay", code=code)

    async def control(self, verb: str, **body: Any) -> dict[str, Any]:
        """POST /control/<verb>. Raises ChainBroken when the sandbox refuses."""
        async with self._http.post(f"{self._base}/control/{verb}", json=body) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise ChainBroken(f"沙箱拒绝了 {verb}：{answer.status} {text[:300]}")
            result: dict[str, Any] = await answer.json(content_type=None)
            return result


class Citizen:
    """One logged-in citizen using the JSON interface."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str) -> None:
        self._http = http
        self._base = base_url
        self._token = ""

    async def log_in(self, wallet: Wallet, *, phone: str, id_no: str) -> None:
        """Phone, code from the short message, last six of the identity number."""
        await self.call("POST", "/api/login/code", {"phone": phone})
        session = await self.call(
            "POST", "/api/login", {"phone": phone, "code": await wallet.last_code(phone)}
        )
        self._token = session["token"]
        confirmed = await self.call("POST", "/api/login/person", {"id_tail": id_no[-6:]})
        self._token = confirmed["token"]

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One JSON call. Raises ChainBroken on anything but 2xx."""
        status, answer = await self.try_call(method, path, body)
        if status >= 300:
            raise ChainBroken(f"{method} {path} 得到 {status}：{answer}")
        return answer

    async def try_call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        async with self._http.request(
            method, f"{self._base}{path}", json=body, headers=headers
        ) as answer:
            return answer.status, await answer.json(content_type=None)

    async def fetch(self, path: str) -> tuple[int, str, bytes]:
        """A page or file: status, content type, bytes."""
        headers = {"authorization": f"Bearer {self._token}"}
        async with self._http.get(f"{self._base}{path}", headers=headers) as answer:
            return answer.status, answer.content_type, await answer.read()

    async def bill(self, bill_no: str) -> dict[str, Any] | None:
        """One of my bills by its number, when it has arrived."""
        listed: list[dict[str, Any]] = (await self.call("GET", "/api/bills"))["bills"]
        found = next((bill for bill in listed if bill["bill_no"] == bill_no), None)
        if found is None:
            return None
        detailed: dict[str, Any] = await self.call("GET", f"/api/bills/{found['id']}")
        return detailed

    async def order(self, bill: dict[str, Any]) -> dict[str, Any]:
        """Start an order for this bill as it was shown."""
        ordered: dict[str, Any] = await self.call(
            "POST",
            "/api/orders",
            {
                "bills": [{"bill_id": bill["id"], "version": bill["version"]}],
                "expected_fen": bill["total_fen"],
            },
        )
        return ordered

    async def attempt(self, order_id: str, channel: str, scene: str) -> dict[str, Any]:
        """Open an attempt; its QR content or redirect is in the answer."""
        opened: dict[str, Any] = await self.call(
            "POST", f"/api/orders/{order_id}/attempts", {"channel": channel, "scene": scene}
        )
        return opened

    async def paid_order(self, order_id: str) -> dict[str, Any] | None:
        order: dict[str, Any] = await self.call("GET", f"/api/orders/{order_id}")
        return order if order["state"] == "paid" else None
