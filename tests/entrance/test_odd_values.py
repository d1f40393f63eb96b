"""Every route of the online program with values nobody meant: clear answers, never a 5xx."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from estation.outside.pay_channels import Channel, NoBill
from tests.entrance.running import ANNA, Online, running_online
from tests.identity.people import Sms
from tests.outside.counterparts import NOW
from tests.payments.city import City, make_bill
from tests.payments.fakes import FakeChannel

EACH = 15
"""Requests for each route and asker."""

MARK = "<script>odd(1)</script>"
ODD = [
    "", "\x00", "a\x00b", "\ud800", "\udfff", "x" * 4000, "字" * 700, "１２３", "٣", "-1", "0",
    "1e9", "9" * 40, "NaN", "Infinity", "1_000", "+1", " 1", "0x10", "' or 1=1 --", MARK,
    '"><svg onload=1>', "../../etc/passwd", "%", "%zz", "null", "[]", "{}", "true", "\r\nx: y",
    "2026-02-30", "0000-00-00", "9999-12-31", "2026-W01-1", "20260301", "2026-03", "０００1-01",
    "//evil.example", "\\\\evil.example", "javascript:alert(1)", "https://evil.example/",
    "/\t/evil.example", "00000000-0000-0000-0000-000000000000", "\u202e", "\ufeff", "🏠" * 50,
    "{00000000-0000-0000-0000-000000000000}", "%s%n", "{{7*7}}", "${7*7}",
]  # fmt: skip
QUERY = ["next", "told", "attempt", "words", "out_trade_no", "state", "kind", "sort", "page",
         "month", "run", "code", "day", "x[]"]  # fmt: skip
FORM = {
    "version": "1", "expected_fen": "825524", "channel": "wechat_pay", "scene": "native",
    "phone": ANNA.phone, "code": "123456", "id_tail": "12345X", "next": "/fees",
    "login": "stranger", "password": "wrong", "resolution": "已核实", "day": "2026-02-28",
    "large_print": "1",
}  # fmt: skip
FORM_TYPE = "application/x-www-form-urlencoded"
TYPES = [FORM_TYPE, "application/json", "multipart/form-data; boundary=b", "multipart/form-data",
         "multipart/form-data; boundary=", "text/plain", "", "x/" + "y" * 500,
         f"{FORM_TYPE}; charset=utf-16", f"{FORM_TYPE}; charset=nonsense"]  # fmt: skip
WELCOME = ("/oauth2/", "/wechat/connect/")
"""Addresses outside that a browser is sent to on purpose."""


class WithoutBills(FakeChannel):
    async def download_bill(self, day: date) -> bytes:
        raise NoBill("NO_STATEMENT_EXIST")


@dataclass
class Place:
    online: Online
    tokens: dict[str, str] = field(default_factory=dict)
    known: dict[str, list[str]] = field(default_factory=dict)


@pytest.fixture
async def place(own_database_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    alipay = WithoutBills(Channel.ALIPAY, "alipay:2021000000000109", knows_unscanned=False)
    city = City(wechat=WithoutBills(), alipay=alipay)
    channels = {one.account_id: one for one in (city.wechat, city.alipay)}
    async with running_online(
        tmp_path, database_url=own_database_url, now=NOW, channels=channels
    ) as online:
        online.app.ctx.sms = Sms()
        yield await _furnished(Place(online), city)


async def _furnished(place: Place, city: City) -> Place:
    await _log_in(place)
    city.person_id, _ = await place.online.log_in(ANNA)
    bills = [await make_bill(city.person_id, now=NOW) for _ in range(6)]
    orders = [await city.order(bill, now=NOW) for bill in bills[:4]]
    for order in orders[1:]:
        await city.attempt(order, now=NOW)
    place.known = {
        "order_id": [str(order.id) for order in orders],
        "bill_id": [str(bill.id) for bill in bills],
        "day": ["2026-02-28", "2020-01-01"],
        "file_name": ["x.pdf"],
        "account": ["1900000109", "2021000000000109"],
    }
    return place


async def _log_in(place: Place) -> None:
    """Everybody anew: some routes log people out, and this crowd clicks for hours."""
    _, citizen = await place.online.log_in(ANNA)
    clerk = await place.online.log_in_as_staff("finance_clerk")
    operator = await place.online.log_in_as_staff("operator")
    place.tokens = {"nobody": "", "citizen": citizen, "clerk": clerk, "operator": operator}


async def test_no_route_falls_over_odd_values(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = Random(1)  # noqa: S311 -- a repeatable crowd
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    routes = [one for one in place.online.app.router.routes if "static" not in one.path]
    for route in routes:
        await _log_in(place)
        for method in sorted(route.methods):
            for asker in place.tokens:
                for _ in range(EACH):
                    status, problem = await _ask(place, chance, method, route.path, asker)
                    statuses[status] += 1
                    wrong += [problem] if problem else []

    with capsys.disabled():
        told = dict(sorted(statuses.items()))
        print(f"\n{sum(statuses.values())} odd requests to {len(routes)} routes: {told}")  # noqa: T201
    assert wrong == []


async def _ask(place: Place, chance: Random, method: str, path: str, asker: str) -> tuple[int, str]:
    """Status, and what is wrong with the answer ("" when nothing)."""
    address, more = _address(place, chance, path), _request(place, chance, method, asker)
    online = place.online
    online.now[0] += timedelta(seconds=2)
    url = URL(f"http://127.0.0.1:{online.port}{address}", encoded=True)
    try:
        async with online.client.request(method, url, allow_redirects=False, **more) as answer:
            body = (await answer.read()).decode(errors="replace")
            problem = _problem(answer, body)
    except aiohttp.ClientError as failure:
        return 0, f"{method} {address[:300]} {failure!r}"
    if problem:
        sent = str(more.get("data", ""))[:300]
        return answer.status, f"{answer.status} {problem}: {asker} {method} {address[:300]} {sent}"
    return answer.status, ""


def _problem(answer: aiohttp.ClientResponse, body: str) -> str:
    if answer.status >= 500:
        return "a 5xx"
    if MARK in body:
        return "a script of the asker's"
    goes_to = answer.headers.get("location", "/")
    if (
        re.match(r"/[^/\\]|/$", goes_to) is None
        and "/oauth" not in goes_to
        and "connect" not in goes_to
    ):
        return f"sends the browser to {goes_to}"
    return ""


def _address(place: Place, chance: Random, path: str) -> str:
    words = []
    for part in path.strip("/").split("/"):
        name = part.strip("<>").partition(":")[0]
        if not part.startswith("<"):
            words.append(part)
        elif name in place.known and chance.random() < 0.6:
            words.append(chance.choice(place.known[name]))
        else:
            words.append(_escaped(chance))
    query = [
        f"{name}={_escaped(chance)}"
        for name in chance.sample(QUERY, chance.choice([0, 0, 1, 2, 5]))
    ]
    return "/" + "/".join(words) + ("?" + "&".join(query) if query else "")


def _escaped(chance: Random) -> str:
    """Percent-escaped as a browser does it, or bytes that are no UTF-8."""
    if chance.random() < 0.1:
        return chance.choice(["%FF%FE", "%ED%A0%80", "%00", "%", "%zz", "%C0%AF", "%u4e2d"])
    return quote(chance.choice(ODD).encode(errors="surrogatepass")[:3000])


def _request(place: Place, chance: Random, method: str, asker: str) -> dict[str, Any]:
    headers = {
        "x-forwarded-for": ".".join(str(chance.randrange(256)) for _ in range(4)),
        "accept": chance.choice(["text/html", "application/json", "*/*"]),
    }
    if place.tokens[asker]:
        headers["authorization"] = f"Bearer {place.tokens[asker]}"
    if chance.random() < 0.1:
        headers["hx-request"] = "true"
        headers["hx-current-url"] = chance.choice(["http://x/pay", "x" * 500, "//evil", "/\\evil"])
    if method == "GET":
        return {"headers": headers}
    headers["content-type"] = chance.choice([FORM_TYPE] * 6 + TYPES)
    return {"headers": headers, "data": _body(chance, headers["content-type"])}


def _body(chance: Random, content_type: str) -> bytes:
    odd = dict(FORM)
    for name in chance.sample(sorted(FORM), chance.choice([1, 1, 2, len(FORM)])):
        odd[name] = chance.choice(ODD)
    if "multipart" in content_type:
        return chance.choice(
            [
                b"".join(
                    b'--b\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
                    % (name.encode(), value.encode(errors="surrogatepass"))
                    for name, value in odd.items()
                ) + b"--b--\r\n",
                b"--b\r\n\r\n\r\n--b--", b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--",
                b"--b", b"", b"\xff" * 50,
                b'--b\r\ncontent-disposition: form-data; name="day"; filename="x"\r\n'
                b"content-type: text/plain; charset=nonsense\r\n\r\nx\r\n--b--\r\n",
                b'--b\r\ncontent-disposition: form-data; name="day"\r\n'
                b"content-type: text/plain; charset=nonsense\r\n\r\nx\r\n--b--\r\n",
                b'--b\r\ncontent-disposition: form-data; name="day"\r\n\r\n\xff\xfe\r\n--b--\r\n',
                b"--b\r\nno colon here\r\n\r\nx\r\n--b--\r\n",
            ]
        )  # fmt: skip
    if chance.random() < 0.1:
        return chance.choice(
            [b"", b"\xff\xfe", b"a" * 15_000, b"&&&", b"=", b"%", b"day=%FF&day=%00"]
        )
    pairs = [
        f"{name}={quote(value.encode(errors='surrogatepass')[:2500])}"
        for name, value in odd.items()
    ]
    return "&".join(pairs).encode()
