"""The daily head: once a Beijing day and book, signed, as a row, a file and a page."""

import itertools
import socket
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import aiohttp
import orjson
import pytest
from sanic import Sanic

from estation.app import create_app
from estation.ledger import api, jobs, queries
from estation.ledger.actions import publishing
from estation.ledger.errors import PublishedOtherwise
from estation.outside.gate import keys
from estation.settings import Settings
from estation.shared.limiting import Limiter
from tests.ledger.making import BOOK, NOW, number, post_payments, rows

EVENING = datetime(2026, 8, 3, 15, 59, 59, tzinfo=UTC)  # one second to midnight in Beijing
MIDNIGHT = EVENING + timedelta(seconds=1)
HEADS = "select count(*) from ledger_head"
_numbers = itertools.count(1)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "local")
    keys.make_pair(
        private=tmp_path / "secrets" / "ledger" / "key.pem",
        public=tmp_path / "secrets" / "ledger" / "public.pem",
    )
    return Settings.model_validate(
        {"secrets_dir": tmp_path / "secrets", "published_dir": tmp_path / "published"}
    )


async def sealed_payment(n: int) -> None:
    await post_payments(1, prefix=f"s{n}")
    await api.seal(NOW)


async def test_a_head_is_published_once_a_beijing_day(database: str, settings: Settings) -> None:
    await sealed_payment(1)

    counts = [await jobs.publish(settings, at) for at in (NOW, EVENING)]
    await sealed_payment(2)
    counts += [await jobs.publish(settings, at) for at in (EVENING, MIDNIGHT, MIDNIGHT)]

    assert counts == [1, 0, 0, 1, 0]
    newer, older = await api.published_heads(limit=10)
    assert (older.day, older.height, older.transfers, older.debit_fen) == (
        date(2026, 8, 3), 1, 1, 100)  # fmt: skip
    assert (newer.day, newer.height, newer.transfers, newer.debit_fen) == (
        date(2026, 8, 4), 2, 2, 200)  # fmt: skip


async def test_a_book_opened_later_that_day_is_published_that_day(
    database: str, settings: Settings
) -> None:
    await sealed_payment(1)
    await jobs.publish(settings, NOW)
    await post_payments(1, book="360102")
    await api.seal(NOW)

    assert await jobs.publish(settings, NOW + timedelta(hours=1)) == 1

    found = await rows("select book from ledger_head order by published_at")
    assert [row["book"] for row in found] == [BOOK, "360102"]


async def test_without_blocks_nothing_is_published(database: str, settings: Settings) -> None:
    await post_payments(1)  # posted, not sealed

    assert await jobs.publish(settings, NOW) == 0
    assert await number(HEADS) == 0


async def test_the_file_can_be_checked_without_us(database: str, settings: Settings) -> None:
    await sealed_payment(1)
    await jobs.publish(settings, NOW)

    file = settings.published_dir / f"2026-08-03-{BOOK}.json"
    told = orjson.loads(file.read_bytes())

    public = keys.load_peer_key(settings.secret("ledger/public.pem"))
    assert public.verify(told["signed_text"].encode(), bytes.fromhex(told["signature"]))
    assert not public.verify(told["signed_text"].encode() + b" ", bytes.fromhex(told["signature"]))
    assert told["key_id"] == public.key_id
    signed = orjson.loads(told["signed_text"])
    assert signed[:6] == ["head/1", told["day"], told["book"], told["height"], told["digest"], 1]
    newest = await api.newest_blocks()
    assert told["digest"] == newest[0].digest


async def test_a_lost_file_is_written_again_bit_for_bit(database: str, settings: Settings) -> None:
    await sealed_payment(1)
    await jobs.publish(settings, NOW)
    file = settings.published_dir / f"2026-08-03-{BOOK}.json"
    before = file.read_bytes()
    file.unlink()

    await jobs.publish(settings, NOW + timedelta(minutes=1))

    assert file.read_bytes() == before
    assert list(settings.published_dir.glob("*.part")) == []


async def test_a_file_that_says_something_else_is_kept_and_loud(
    database: str, settings: Settings
) -> None:
    await sealed_payment(1)
    await jobs.publish(settings, NOW)
    file = settings.published_dir / f"2026-08-03-{BOOK}.json"
    file.write_text("{}")

    with pytest.raises(PublishedOtherwise, match=file.name):
        await jobs.publish(settings, MIDNIGHT)

    assert file.read_text() == "{}"
    assert (settings.published_dir / f"2026-08-04-{BOOK}.json").exists()
    assert await number(HEADS) == 2


async def test_the_key_may_be_replaced_between_two_days(
    database: str, settings: Settings, tmp_path: Path
) -> None:
    await sealed_payment(1)
    await jobs.publish(settings, NOW)
    secrets = tmp_path / "secrets" / "ledger"
    former = (secrets / "public.pem").read_bytes()
    (secrets / "key.pem").unlink()
    keys.make_pair(private=secrets / "key.pem", public=secrets / "public.pem")

    await jobs.publish(settings, MIDNIGHT)

    pems = [former, settings.secret("ledger/public.pem")]
    trusted = {key.key_id: key for key in map(keys.load_peer_key, pems)}
    assert len({head.key_id for head in await api.published_heads(limit=9)}) == 2
    assert (await api.verify(now=NOW, keys=trusted)).breaks == []


@pytest.mark.parametrize(
    ("book", "name"),
    [("360101", "2026-08-03-360101.json"), ("../../", "2026-08-03-2e2e2f2e2e2f.json")],
)
def test_no_region_leads_out_of_the_folder(book: str, name: str) -> None:
    head = api.HeadView(date(2026, 8, 3), book, 1, "", 1, 1, NOW, "", "")

    assert publishing.file_name(head) == name


@pytest.fixture
async def online(database: str, settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """The online app on the test's database, as an anonymous visitor meets it."""
    Sanic.test_mode = True
    app = create_app(name=f"heads-{next(_numbers)}-{uuid4().hex[:8]}", settings=settings)
    app.listeners["before_server_start"].clear()  # the database is the fixture's
    app.listeners["after_server_stop"].clear()
    app.ctx = cast(
        Any,
        SimpleNamespace(settings=settings, clock=lambda: NOW, redis=None, limiter=Limiter(None)),
    )
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = await app.create_server(sock=listening, return_asyncio_server=True, access_log=False)
    assert server is not None
    await server.startup()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    server.close()
    await server.wait_closed()


async def test_everybody_can_read_the_heads_as_json(
    online: aiohttp.ClientSession, settings: Settings
) -> None:
    await sealed_payment(1)
    await jobs.publish(settings, NOW)

    async with online.get("/ledger/heads") as reply:
        assert reply.status == 200
        told = await reply.json()

    file = settings.published_dir / f"2026-08-03-{BOOK}.json"
    written = orjson.loads(file.read_bytes())
    del written["signed_text"]
    assert told["heads"] == [written]
    assert told["public_keys"] == [settings.secret("ledger/public.pem").decode()]


async def test_a_public_key_that_joins_the_one_before_in_its_file_is_told_at_once(
    online: aiohttp.ClientSession, settings: Settings, tmp_path: Path
) -> None:
    """So that the key is replaced without a change of the settings, which needs a restart."""
    file = tmp_path / "secrets" / "ledger" / "public.pem"
    former, new = file.read_bytes(), keys.make_key()[1]
    file.write_bytes(former + new)

    async with online.get("/ledger/heads") as reply:
        told = await reply.json()

    assert told["public_keys"] == [former.decode(), new.decode()]


async def test_everybody_can_read_the_heads_as_a_page(
    online: aiohttp.ClientSession, settings: Settings
) -> None:
    async with online.get("/ledger/heads", headers={"accept": "text/html"}) as reply:
        empty = await reply.text()
    await sealed_payment(1)
    await jobs.publish(settings, NOW)

    async with online.get("/ledger/heads", headers={"accept": "text/html"}) as reply:
        page = await reply.text()

    assert "还没有公布过账本" in empty
    digest = (await api.newest_blocks())[0].digest
    assert digest in page
    assert "2026年8月3日" in page
    assert "¥&nbsp;1.00" in page
    assert "BEGIN PUBLIC KEY" in page
    assert "PRIVATE" not in page


async def test_the_gauges_are_told_at_each_scrape(
    online: aiohttp.ClientSession, settings: Settings
) -> None:
    await sealed_payment(1)

    async with online.get("/metrics") as reply:
        told = await reply.text()

    assert "estation_ledger_blocks 1.0" in told
    assert "estation_ledger_unsealed_age_seconds 0.0" in told


async def test_a_scrape_without_the_database_still_tells_the_rest(
    online: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(now: datetime) -> object:
        raise ConnectionError

    monkeypatch.setattr(queries, "sealing_state", away)

    async with online.get("/metrics") as reply:
        told = await reply.text()

    assert reply.status == 200
    assert "estation_ledger_unsealed_age_seconds NaN" in told
