"""Who asks too often is told calmly and when to come back, whether Redis lives or not."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from estation.limits import ALLOWANCES, GROUPS, Allowance
from estation.local import LocalValkey
from estation.shared.limiting import FloodBound
from tests.entrance.running import BO, Online, running_online
from tests.outside.counterparts import NOW, WechatNotice, transaction
from tests.payments.city import count, make_bill

ORDERS = ALLOWANCES["order"]
EMPTY: dict[str, Any] = {"bills": [], "expected_fen": 1}
PAGE = {"accept": "text/html"}
WECHAT_DOOR = "/notices/wechat-pay/1900000109"


@pytest.fixture
def mortal_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalValkey]:
    folder = tmp_path_factory.mktemp("mortal")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    server = LocalValkey(folder / "valkey").start()
    yield server
    server.stop()


async def ask(
    online: Online, method: str, path: str, token: str = "", address: str = "10.0.0.1", **more: Any
) -> tuple[int, str, str]:
    """Status, Retry-After, body."""
    headers = {"x-forwarded-for": address, **more.pop("headers", {})}
    if token:
        headers["authorization"] = f"Bearer {token}"
    async with online.client.request(
        method, path, headers=headers, allow_redirects=False, **more
    ) as answer:
        return answer.status, answer.headers.get("retry-after", ""), await answer.text()


async def orders(online: Online, many: int, token: str, address: str = "10.0.0.1") -> list[int]:
    """Statuses of so many attempts to start an (empty) order, one after the other."""
    return [
        (await ask(online, "POST", "/api/orders", token, address, json=EMPTY))[0]
        for _ in range(many)
    ]


async def test_one_citizen_is_bounded_over_all_addresses_and_sessions(online: Online) -> None:
    _, token = await online.log_in()
    _, other_session = await online.log_in()
    _, other_citizen = await online.log_in(BO)

    first = await orders(online, ORDERS.viewer, token)
    refused = await ask(online, "POST", "/api/orders", other_session, "10.0.0.9", json=EMPTY)
    other = await orders(online, 1, other_citizen)

    assert set(first) == {422}
    assert refused[0] == 429
    assert 1 <= int(refused[1]) <= 120
    assert "操作过于频繁" in refused[2]
    assert '"code":"too_many_requests"' in refused[2]
    assert other == [422]
    assert await count("pay_order") == 0


async def test_the_same_bound_stands_over_json_and_pages(online: Online) -> None:
    _, token = await online.log_in()
    await orders(online, ORDERS.viewer, token)

    status, retry_after, page = await ask(
        online, "POST", f"/fees/{uuid4()}/pay", token, headers=PAGE, data={"version": "1"}
    )

    assert (status, bool(retry_after)) == (429, True)
    assert "操作过于频繁，请稍后再试。" in page
    assert page.startswith("<!doctype html>")


async def test_who_waited_is_served_again(online: Online) -> None:
    _, token = await online.log_in()
    await orders(online, ORDERS.viewer, token)
    _, retry_after, _ = await ask(online, "POST", "/api/orders", token, json=EMPTY)
    online.now[0] += timedelta(seconds=int(retry_after))

    assert await orders(online, 1, token) == [422]


async def test_one_address_is_bounded_over_all_citizens(
    online: Online, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALLOWANCES, "order", Allowance(viewer=60, address=20))  # type: ignore[index]
    statuses = [
        (await ask(online, "POST", "/api/orders", "", address, json=EMPTY))[0]
        for address in ["2001:db8::1", "2001:db8::2"] * 10
    ]
    refused = await ask(online, "POST", "/api/orders", "", "2001:db8::3", json=EMPTY)
    elsewhere = await ask(online, "POST", "/api/orders", "", "2001:db8:0:1::1", json=EMPTY)

    assert set(statuses) == {401}
    assert (refused[0], elsewhere[0]) == (429, 401)


async def test_every_route_of_the_table_is_bounded(
    online: Online, monkeypatch: pytest.MonkeyPatch
) -> None:
    for group in ALLOWANCES:
        monkeypatch.setitem(ALLOWANCES, group, Allowance(viewer=1, address=1))  # type: ignore[index]
    for number, (method, path) in enumerate(sorted(GROUPS)):
        address = "/".join(_example(part) for part in path.split("/"))

        first, second = [(await ask(online, method, address, "", f"10.9.0.{number}")) for _ in "12"]

        assert (first[0] == 429, second[0]) == (False, 429), path


def _example(part: str) -> str:
    if not part.startswith("<"):
        return part
    if part.endswith(":ymd>"):
        return "2026-05-06"
    return str(uuid4()) if part.endswith(":uuid>") else "x.pdf"


@pytest.mark.parametrize("path", ["/", "/fees", "/ledger/heads", "/cases", "/no/such/page"])
async def test_who_turns_pages_too_fast_reads_when_to_come_back(
    online: Online, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for group in ALLOWANCES:
        monkeypatch.setitem(ALLOWANCES, group, Allowance(viewer=1000, address=3))  # type: ignore[index]

    answers = [await ask(online, "GET", path, headers=PAGE) for _ in range(4)]
    neighbour = await ask(online, "GET", path, address="10.0.0.2", headers=PAGE)
    online.now[0] += timedelta(seconds=int(answers[3][1]))
    later = await ask(online, "GET", path, headers=PAGE)

    status, retry_after, page = answers[3]
    assert 429 not in [one[0] for one in answers[:3]]
    assert status == 429
    assert page.startswith("<!doctype html>")
    assert f"大约 {retry_after} 秒后可以再试" in page
    assert neighbour[0] == later[0] == answers[0][0]


async def test_one_person_is_bounded_on_pages_and_the_family_behind_the_same_router_is_not(
    online: Online,
) -> None:
    _, token = await online.log_in()
    _, other = await online.log_in(BO)
    many = ALLOWANCES["page"].viewer

    mine = [(await ask(online, "GET", "/fees/history", token))[0] for _ in range(many)]
    refused = await ask(online, "GET", "/fees", token, headers=PAGE)
    home = await ask(online, "GET", "/", token, headers=PAGE)
    family = await ask(online, "GET", "/fees", other, headers=PAGE)

    assert set(mine) == {200}
    assert refused[0] == 429
    assert (home[0], family[0]) == (200, 200)


async def test_the_balancer_is_never_told_to_wait(online: Online) -> None:
    statuses = {(await ask(online, "GET", "/healthz"))[0] for _ in range(200)}

    assert statuses == {200}


async def test_redis_killed_midway_fails_nobody_and_bounds_still(
    own_database_url: str, mortal_valkey: LocalValkey, tmp_path: Path
) -> None:
    async with running_online(
        tmp_path, database_url=own_database_url, now=NOW, redis_url=mortal_valkey.url
    ) as online:
        person_id, token = await online.log_in()
        bill = await make_bill(person_id, now=NOW)
        body = {"bills": [{"bill_id": str(bill.id), "version": 1}], "expected_fen": bill.total_fen}
        before = await orders(online, ORDERS.viewer - 5, token)
        mortal_valkey.stop()

        made = await ask(online, "POST", "/api/orders", token, json=body)
        after = await orders(online, ORDERS.viewer + 5, token)

    assert set(before) == {422}
    assert made[0] == 201
    assert after.count(422) == ORDERS.viewer - 1
    assert after[-6:] == [429] * 6


async def test_believed_news_is_never_bounded_and_forgers_are(
    online: Online, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FloodBound, "PATIENCE", 20)
    monkeypatch.setattr(FloodBound, "BACK_PER_SECOND", 0.5)
    headers, body = WechatNotice(plaintext=transaction()).sent()

    async def ring(address: str, *, forged: bool) -> int:
        content = body + b" " if forged else body
        sent = {**headers, "x-forwarded-for": address}
        async with online.client.post(WECHAT_DOOR, headers=sent, data=content) as answer:
            return answer.status

    forged = [await ring("10.6.6.6", forged=True) for _ in range(25)]
    elsewhere = await ring("10.1.1.1", forged=False)
    mixed = [await ring("10.1.1.1", forged=n % 2 == 0) for n in range(100)]
    online.now[0] += timedelta(seconds=4)
    later = await ring("10.6.6.6", forged=True)

    assert forged == [401] * 20 + [429] * 5
    assert elsewhere == 200
    assert set(mixed[1::2]) == {200}
    assert set(mixed[0::2]) == {401}
    assert later == 401
    assert await count("pay_notice") == 1


async def test_forgers_are_bounded_also_when_they_all_come_at_once(
    online: Online, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand at the door together before the first of them has been read."""
    monkeypatch.setattr(FloodBound, "PATIENCE", 5)
    headers, body = WechatNotice(plaintext=transaction()).sent()

    async def ring() -> int:
        sent = {**headers, "x-forwarded-for": "10.6.6.6"}
        async with online.client.post(WECHAT_DOOR, headers=sent, data=body + b" ") as answer:
            return answer.status

    statuses = await asyncio.gather(*(ring() for _ in range(60)))

    assert sorted(statuses) == [401] * 5 + [429] * 55


@pytest.mark.parametrize(
    ("path", "content_type", "limit"),
    [
        ("/api/orders", "application/json", 16 * 1024),
        ("/login/code", "application/x-www-form-urlencoded", 16 * 1024),
        (WECHAT_DOOR, "application/json", 64 * 1024),
        ("/notices/alipay/2021000000000109", "application/x-www-form-urlencoded", 64 * 1024),
    ],
)
async def test_every_body_has_its_size(
    online: Online, path: str, content_type: str, limit: int
) -> None:
    async def sized(size: int, *, chunked: bool = False) -> int:
        async def pieces() -> Any:
            for start in range(0, size, 4096):
                yield b"x" * min(4096, size - start)

        headers = {"content-type": content_type, "x-forwarded-for": "10.0.0.1"}
        data: Any = pieces() if chunked else b"x" * size
        async with online.client.post(path, headers=headers, data=data) as answer:
            return answer.status

    assert await sized(limit) != 413
    assert await sized(limit + 1) == 413
    assert await sized(limit + 1, chunked=True) == 413
    assert await sized(4 * 1024 * 1024) == 413


async def raw(online: Online, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What a bare socket hears until the other side closes (ten seconds at most)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", online.port)
    heard = asyncio.create_task(reader.read())
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
            if heard.done():
                break
        async with asyncio.timeout(10):
            return await heard
    except ConnectionError:
        return b"closed"
    finally:
        heard.cancel()
        writer.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 5000 + b"\r\n", b"413"),
        (b"POST /api/orders HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST /api/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 1_0\r\n\r\n", b"400"),
        (b"POST /api/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
         b"transfer-encoding: chunked\r\n\r\n", b"400"),
        (b"GET \xe4\xb8\xad HTTP/1.1\r\nhost: x\r\n\r\n", b""),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\nhost: x\r\n\r\n", b"400"),
    ],
)  # fmt: skip
async def test_heads_that_are_too_long_or_no_http_are_refused(
    online: Online, head: bytes, status: bytes
) -> None:
    answer = await raw(online, head)

    assert answer[9:12] == status
    assert (await ask(online, "GET", "/healthz"))[0] == 200


HALF_HEAD = b"POST /api/orders HTTP/1.1\r\nhost: x\r\n"
HALF_BODY = HALF_HEAD + b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([HALF_HEAD], b"408"),
        ([HALF_HEAD, *[b"a"] * 40], b"408"),
        ([HALF_BODY], b"503"),
        ([HALF_BODY, *[b" "] * 40], b"503"),
        ([b""], b""),
        ([HALF_HEAD + b"content-length: 100000\r\n\r\n", *[b" " * 300] * 40], b"413"),
    ],
    ids=[
        "half a head",
        "a head dripping",
        "half a body",
        "a body dripping",
        "nothing at all",
        "too much",
    ],
)
async def test_a_request_that_does_not_arrive_is_ended(
    own_database_url: str, tmp_path: Path, pieces: list[bytes], expected: bytes
) -> None:
    loop = asyncio.get_running_loop()
    limits = {"REQUEST_TIMEOUT": 1, "RESPONSE_TIMEOUT": 1, "KEEP_ALIVE_TIMEOUT": 1}
    async with running_online(tmp_path, database_url=own_database_url, now=NOW, **limits) as online:
        began = loop.time()
        answer = await raw(online, *pieces, pause=0.2)
        took = loop.time() - began

    assert answer[9:12] == expected
    assert took < 4


async def test_an_answer_that_takes_too_long_is_a_503_and_harms_nobody(
    own_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(*args: object, **kwargs: object) -> None:
        await asyncio.sleep(60)

    async with running_online(
        tmp_path, database_url=own_database_url, now=NOW, RESPONSE_TIMEOUT=1
    ) as online:
        _, token = await online.log_in()
        monkeypatch.setattr("estation.payments.routes.start_order", endless)
        late = await ask(online, "POST", "/api/orders", token, json=EMPTY)
        alive = await ask(online, "GET", "/healthz")

    assert late[0] == 503
    assert '"code":"unavailable"' in late[2]
    assert alive[0] == 200


def test_the_programs_own_times_are_short(tmp_path: Path) -> None:
    from estation.app import create_app
    from tests.entrance.running import settings_in

    settings = settings_in(tmp_path, database_url="unused", redis_url="unused")
    config = create_app(name=f"times-{uuid4().hex}", settings=settings).config

    assert config.REQUEST_TIMEOUT <= 15
    assert config.RESPONSE_TIMEOUT <= 30
    assert config.REQUEST_MAX_SIZE <= 128 * 1024
    assert config.REQUEST_MAX_HEADER_SIZE <= 16 * 1024
