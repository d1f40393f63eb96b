"""Our own keys change under the running program: nobody notices, and nothing printed loses its
worth. The files are really replaced; only the pauses between two looks are shorter."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from estation.cli import main
from estation.identity.api import upsert_persons
from estation.outside.gate.pay_codes import pay_code
from estation.payments import api
from estation.payments.receipt_codes import receipt_code
from estation.shared import crypto, key_files
from estation.shared.keyring import read_keys, write_keys
from tests.entrance.running import ANNA, DATA_KEY, Online, running_online
from tests.identity.people import CENTRE, VAULT, Sms
from tests.payments.city import City, make_bill
from tests.payments.fakes import NOW

FILES = {"data": "data.key", "pay-code": "pay_code.key", "receipt": "receipt.key"}
HEADERS = {"x-forwarded-for": "10.0.0.1"}


@pytest.fixture
async def online(
    own_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Online]:
    monkeypatch.setattr(key_files, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(crypto, "HAND_OVER_SECONDS", 3600.0)
    monkeypatch.setenv("ESTATION_DATABASE_URL", own_database_url)
    monkeypatch.setenv("ESTATION_SECRETS_DIR", str(tmp_path))
    async with running_online(tmp_path, database_url=own_database_url, now=NOW) as running:
        running.app.ctx.sms = Sms()
        yield running


class Citizen:
    """Anna before the program."""

    def __init__(self, online: Online) -> None:
        self._online = online
        self._token = ""

    async def ask(self, path: str, *, method: str = "GET", **options: Any) -> tuple[int, str]:
        headers = {**HEADERS, "accept": "text/html"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        async with self._online.client.request(
            method, path, headers=headers, allow_redirects=False, **options
        ) as answer:
            return answer.status, await answer.text()

    async def log_in(self) -> None:
        self._token = ""
        await self._say("/api/login/code", phone=ANNA.phone)
        code = self._online.app.ctx.sms.code
        self._token = (await self._say("/api/login", phone=ANNA.phone, code=code))["token"]
        chosen = await self._say("/api/login/person", id_tail=ANNA.id_no[-6:])
        assert chosen["needs_person"] is False
        self._token = chosen["token"]

    async def _say(self, path: str, **body: str) -> dict[str, Any]:
        headers = dict(HEADERS)
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        async with self._online.client.post(path, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            said: dict[str, Any] = await answer.json()
            return said


async def test_every_key_of_our_own_is_changed_under_the_running_program(
    online: Online, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (person_id,) = (await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)).values()
    city, anna = City(person_id=person_id), Citizen(online)
    bill, order = await make_bill(person_id, now=NOW), await _paid(city)
    printed = pay_code(DATA_KEY, bill_no=bill.bill_no, source=bill.source, source_id=bill.source_id)
    receipt, services = _receipt(order, DATA_KEY), online.app.ctx
    await anna.log_in()

    async def all_is_well() -> str:
        own = await anna.ask(f"/fees/{bill.id}/code")
        assert (own[0], ANNA.name in own[1]) == (200, True)
        assert (await anna.ask(f"/c/{printed}"))[0] == 200
        verified = await anna.ask("/verify", method="POST", data=receipt)
        assert "凭据真实有效" in verified[1]
        found = re.search(r"/c/([A-Z0-9a-z-]+)", own[1])
        assert found is not None
        return found[1]

    assert await all_is_well() == printed
    for which, file in FILES.items():
        assert await asyncio.to_thread(_estation, "keys", "add", which) == 0
        assert len(read_keys((tmp_path / file).read_bytes())) == 2

    fresh = await all_is_well()
    new = _newest(tmp_path, "pay_code.key")
    assert fresh == pay_code(
        new, bill_no=bill.bill_no, source=bill.source, source_id=bill.source_id
    )
    assert not services.vault.keys.making.is_named, "before all programs know it"
    monkeypatch.setattr(crypto, "HAND_OVER_SECONDS", 0.0)
    online.now[0] = NOW + timedelta(minutes=2)
    await anna.log_in()
    await all_is_well()
    assert services.vault.keys.making is services.vault.keys.newest
    assert services is online.app.ctx, "it is the same program still"
    again = _receipt(order, _newest(tmp_path, "receipt.key"))
    assert "凭据真实有效" in (await anna.ask("/verify", method="POST", data=again))[1]


async def test_a_data_key_taken_out_too_early_is_a_503_until_it_is_back(
    online: Online, tmp_path: Path
) -> None:
    await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
    anna = Citizen(online)
    await anna.log_in()
    former = (tmp_path / "data.key").read_bytes()
    await asyncio.to_thread(_estation, "keys", "add", "data")
    both = (tmp_path / "data.key").read_bytes()

    (tmp_path / "data.key").write_bytes(both[:40])
    half_written = await anna.ask("/fees")
    (tmp_path / "data.key").write_bytes(write_keys(read_keys(both)[:1]))
    gone = await anna.ask("/fees")
    (tmp_path / "data.key").write_bytes(former)
    back = await anna.ask("/fees")

    assert (half_written[0], gone[0], back[0]) == (200, 503, 200)
    assert "系统正忙，请稍后重试" in gone[1]


async def _paid(city: City) -> api.OrderView:
    order = await city.order(await make_bill(city.person_id, now=NOW), now=NOW)
    attempt = await city.attempt(order, now=NOW)
    city.wechat.pay(attempt.out_trade_no, at=NOW)
    await api.settle_batch([api.from_report(city.wechat.report(attempt.out_trade_no))], now=NOW)
    return await api.order_of(city.person_id, order.id)


def _receipt(order: api.OrderView, key: bytes) -> dict[str, str]:
    split, paid_at = order.splits[0], order.paid_at
    assert paid_at is not None
    code = receipt_code(
        key,
        receipt_no=split.receipt_no,
        payee_code=split.payee_code,
        amount_fen=split.amount_fen,
        paid_at=paid_at,
    )
    return {"no": split.receipt_no, "code": code}


def _newest(folder: Path, file: str) -> bytes:
    return read_keys((folder / file).read_bytes())[0].secret


def _estation(*words: str) -> int:
    return CliRunner().invoke(main, list(words)).exit_code
