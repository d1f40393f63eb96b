"""Walks through the city over HTTP as people do: a citizen, a clerk at the fee desk, a wallet."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from html.parser import HTMLParser
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp

T = TypeVar("T")

BILL_LINES = {
    "1-code": "DEED",
    "1-name": "契税",
    "1-payee_code": "treasury",
    "1-base": "850000.00",
    "1-rate": "1%",
    "1-amount": "8500.00",
    "1-formula": "850,000.00 元 × 1% = 8,500.00 元",
    "1-legal_basis": "财税〔2016〕23号",
    "2-code": "REG",
    "2-name": "不动产登记费",
    "2-payee_code": "non_tax",
    "2-amount": "80.00",
    "2-formula": "住宅每件 80 元",
    "2-legal_basis": "发改价格规〔2016〕2559号",
}
"""Lines 1 and 2 of the desk's bill form: the worked case of a first home up to 90 m²."""

FUND_LINES = {
    **BILL_LINES,
    "3-code": "FUND",
    "3-name": "住宅专项维修资金",
    "3-payee_code": "maintenance_fund",
    "3-amount": "6600.00",
    "3-formula": "建筑面积 88.00 ㎡ × 75.00 元/㎡ = 6,600.00 元",
    "3-legal_basis": "住宅专项维修资金管理办法第七条",
}
"""The same with a payee that has no merchant of its own: the city collects it whole."""

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
        if status == 503:
            raise ConnectionError(f"{method} {path}: 503")  # on its way back
        if status >= 300:
            raise ChainBroken(f"{method} {path} 得到 {status}：{answer}")
        return answer

    @property
    def headers(self) -> dict[str, str]:
        """What proves who is asking."""
        return {"authorization": f"Bearer {self._token}"} if self._token else {}

    async def try_call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._http.request(
            method, f"{self._base}{path}", json=body, headers=self.headers
        ) as answer:
            return answer.status, await answer.json(content_type=None)

    async def fetch(self, path: str) -> tuple[int, str, bytes]:
        """A page or file: status, content type, bytes."""
        async with self._http.get(f"{self._base}{path}", headers=self.headers) as answer:
            return answer.status, answer.content_type, await answer.read()

    async def bill(self, bill_no: str) -> dict[str, Any] | None:
        """My bill that is due by its number, when it has arrived; another centre may have used
        the number for one that is paid."""
        listed: list[dict[str, Any]] = (await self.call("GET", "/api/bills"))["bills"]
        found = next(
            (one for one in listed if one["bill_no"] == bill_no and one["state"] == "payable"), None
        )
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


class FeeDesk:
    """A clerk at the internal platform, working through its pages as a browser would."""

    def __init__(self, base_url: str) -> None:
        self._base = base_url
        self._http = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True),  # the demo lives on an IP address
            timeout=aiohttp.ClientTimeout(total=20),
            headers={"accept": "text/html"},
        )

    async def __aenter__(self) -> "FeeDesk":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def log_in(self, login: str, password: str) -> None:
        form = Form(await self._get("/login"))
        await self._send(form, "/login", {"login": login, "password": password})

    async def issue_bill_for(self, name: str, lines: Mapping[str, str] = BILL_LINES) -> str:
        """Issue a bill of tax and registration fee to this party of an open case; its number."""
        listed = await self._get(f"/cases?q={quote(name)}&state=open")
        found = re.search(r'href="(/cases/[0-9A-Za-z-]+)"', listed)
        if found is None:
            raise ChainBroken(f"内网没有找到 {name} 的在办案件")
        case = await self._get(found.group(1))
        row = re.search(rf"<tr[^>]*>(?:(?!</tr>).)*{name}(?:(?!</tr>).)*</tr>", case, re.DOTALL)
        link = re.search(r'href="(\S+/bills/new)\?(payer=\d+)"', row.group() if row else "")
        if link is None:
            raise ChainBroken(f"内网办件 {found.group(1)} 不能给 {name} 开单")
        address = link.group(1)
        form = Form(await self._get(f"{address}?{link.group(2)}"))
        blank = {field: "" for field in form.fields if re.match(r"\d+-", field)}
        values = {"title": "存量房买卖契税与登记费", "do": "issue", **blank, **lines}
        shown = await self._send(form, address, values)
        issued = re.search(r"JF[0-9]+", shown)
        if issued is None:
            raise ChainBroken(f"内网没有开出缴费单：{form.words(shown)[:300]}")
        return issued.group()

    async def withdraw(self, bill_no: str, reason: str) -> None:
        """Take a bill back."""
        form = Form(await self._get(f"/bills/{bill_no}"))
        await self._send(form, f"/bills/{bill_no}/withdraw", {"reason": reason})

    async def _get(self, path: str) -> str:
        async with self._http.get(f"{self._base}{path}") as answer:
            text = await answer.text()
            if answer.status != 200:
                raise ChainBroken(f"内网 {path} 得到 {answer.status}：{text[:200]}")
            return text

    async def _send(self, form: "Form", path: str, values: dict[str, str]) -> str:
        """Send the page's form back with these values, as a browser does; the next page."""
        async with self._http.post(f"{self._base}{path}", data={**form.fields, **values}) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise ChainBroken(f"内网 {path} 得到 {answer.status}：{form.words(text)[:300]}")
            return text


class Form(HTMLParser):
    """The fields of a page's forms with the values they came with."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._select, self._text_of = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name = given.get("name", "")
        if tag == "input" and name and given.get("type") not in ("submit", "checkbox"):
            self.fields[name] = given.get("value", "")
        elif tag == "textarea" and name:
            self.fields[name], self._text_of = "", name
        elif tag == "select":
            self._select = name
        elif tag == "option" and ("selected" in given or self._select not in self.fields):
            self.fields[self._select] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._text_of = ""

    def handle_data(self, data: str) -> None:
        if self._text_of:
            self.fields[self._text_of] += data

    @staticmethod
    def words(page: str) -> str:
        """The page without its tags, for messages."""
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).strip()
