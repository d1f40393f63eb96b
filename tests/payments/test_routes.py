"""The doorbell and the JSON interface over real HTTP, with the real channels' verification."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from sanic import HTTPResponse, Sanic

from estation.ledger.jobs import seal
from estation.outside.pay_channels import PayChannel
from estation.outside.pay_channels.messages import opened_message, sealed_message
from estation.payments import api, jobs, routes, rules
from estation.payments.actions import inbox, replaying
from estation.payments.invariants import broken_invariants
from estation.services import OnlineApp, OnlineRequest
from estation.shared import ids
from estation.shared.errors import Refused
from estation.shared.gather import Overloaded
from estation.shared.replies import render_refusal
from tests.outside import counterparts
from tests.outside.counterparts import NOW, WechatNotice, alipay_form, alipay_notice, transaction
from tests.payments.city import MONEY, TOTAL, City, count, make_bill, rows

WECHAT_DOOR = "/notices/wechat-pay/1900000109"
ALIPAY_DOOR = "/notices/alipay/2021000000000109"


@dataclass
class Doors:
    """The running program: its address, and the citizen its requests come from."""

    app: OnlineApp
    client: aiohttp.ClientSession
    city: City = field(default_factory=City)

    async def ring(self, door: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        async with self.client.post(door, headers=headers, data=body) as answer:
            return answer.status, await answer.read()

    async def ask(self, method: str, path: str, **kwargs: Any) -> tuple[int, Any]:
        async with self.client.request(method, path, **kwargs) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def doors(database: str) -> AsyncIterator[Doors]:
    city = City()
    app: Any = Sanic(f"doors-{uuid4().hex}", configure_logging=False)
    app.config.TOUCHUP = False  # it rewrites functions once per process; tests make many apps
    app.ctx = city.services
    app.ctx.clock = lambda: NOW
    app.ctx.channels = {**app.ctx.channels}
    app.blueprint(routes.bp)
    app.error_handler.add(Refused, render_refusal)
    app.on_request(_logged_in_as(city))
    app.register_listener(routes.start_notice_desk, "before_server_start")
    app.register_listener(routes.stop_notice_desk, "after_server_stop")
    door = socket.create_server(("127.0.0.1", 0))
    server: Any = await app.create_server(sock=door, return_asyncio_server=True, access_log=False)
    await server.startup()
    await server.before_start()
    await server.start_serving()
    port = door.getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        yield Doors(app, client, city)
    await server.close()
    await server.after_stop()
    Sanic._app_registry.pop(app.name, None)


def _logged_in_as(city: City) -> Any:
    async def attach(request: OnlineRequest) -> HTTPResponse | None:
        request.ctx.has_bearer, request.ctx.csrf_token = True, ""
        request.ctx.viewer = SimpleNamespace(
            person_id=city.person_id,
            name="林晓舟",
            session_id=uuid4(),
            openid="o-1",
            appid=None,
            staff_id=None,
        )
        return None

    return attach


@pytest.fixture
def real_doors(doors: Doors) -> Doors:
    """With the real clients verifying."""
    channels = cast(dict[str, PayChannel], doors.app.ctx.channels)
    for channel in (counterparts.wechat_pay_channel(), counterparts.alipay_channel()):
        channels[channel.account_id] = channel
    return doors


async def opened_number(doors: Doors, channel: str = "wechat_pay") -> str:
    """An open attempt of ours for ¥8,175.24 at the real channel's account."""
    _, _, number = await doors.city.opened({"treasury": 817_524})
    account = "wechat_pay:1900000109" if channel == "wechat_pay" else "alipay:2021000000000109"
    scene = "native" if channel == "wechat_pay" else "precreate"
    await rows(
        "update pay_attempt set channel = $1, account_id = $2, scene = $3 where out_trade_no = $4",
        channel,
        account,
        scene,
        number,
    )
    return number


async def nothing_happened() -> bool:
    """The books have what open orders are to bring, and nothing else."""
    tables = ("outbox_message", "pay_notice", "incident")
    return (
        all([await count(table) == 0 for table in tables])
        and await count("ledger_transfer", "kind <> 'hold'") == 0
        and await count("pay_order", "state <> 'open'") == 0
    )


async def test_a_wechat_notice_is_answered_after_the_commit(real_doors: Doors) -> None:
    number = await opened_number(real_doors)
    headers, body = WechatNotice(plaintext=transaction(out_trade_no=number)).sent()

    status, said = await real_doors.ring(WECHAT_DOOR, headers, body)

    assert (status, json.loads(said)["code"]) == (200, "SUCCESS")
    assert await count("ledger_transfer", MONEY) == 1
    assert await count("pay_notice", "outcome = 'applied'") == 1
    assert await broken_invariants() == {}


async def test_an_alipay_notice_is_answered_with_the_word_it_wants(real_doors: Doors) -> None:
    number = await opened_number(real_doors, "alipay")

    answer = await real_doors.ring(ALIPAY_DOOR, *alipay_form(alipay_notice(out_trade_no=number)))

    assert answer == (200, b"success")
    assert await count("pay_order", "state = 'paid'") == 1


async def test_the_same_notice_ten_times_at_once_makes_one_transfer(real_doors: Doors) -> None:
    number = await opened_number(real_doors)
    headers, body = WechatNotice(plaintext=transaction(out_trade_no=number)).sent()

    answers = await asyncio.gather(
        *(real_doors.ring(WECHAT_DOOR, headers, body) for _ in range(10))
    )

    assert {status for status, _ in answers} == {200}
    assert await count("ledger_transfer", MONEY) == await count("outbox_message") == 1


async def test_the_same_news_under_another_id_makes_one_transfer(real_doors: Doors) -> None:
    number = await opened_number(real_doors)
    for notice_id in ("EV-1", "EV-2"):
        notice = WechatNotice(plaintext=transaction(out_trade_no=number), notice_id=notice_id)
        assert (await real_doors.ring(WECHAT_DOOR, *notice.sent()))[0] == 200

    assert await count("ledger_transfer", MONEY) == 1
    assert await count("pay_notice") == 1


def seconds(offset: int) -> str:
    return str(int((NOW + timedelta(seconds=offset)).timestamp()))


@pytest.mark.parametrize(
    "spoil",
    [
        {"signer": "a stranger"},
        {"serial": "PUB_KEY_ID_x"},
        {"serial": "4A0DE7F2C61B5D839E07A4C2F1B86D350E9C7A24"},
        {"timestamp": seconds(-301)},
        {"timestamp": seconds(301)},
        {"api_v3_key": b"another key with thirty-two byte"},
    ],
)
async def test_forged_notices_are_refused_without_effect(
    real_doors: Doors, spoil: dict[str, Any]
) -> None:
    number = await opened_number(real_doors)
    notice = WechatNotice(plaintext=transaction(out_trade_no=number), **spoil)

    status, said = await real_doors.ring(WECHAT_DOOR, *notice.sent())

    assert 400 <= status < 500
    assert json.loads(said)["code"] == "FAIL"
    assert await nothing_happened()


@pytest.mark.parametrize(
    "change",
    [
        {"amount": {"total": 81.75, "currency": "CNY"}},
        {"amount": {"total": 817524, "currency": "USD"}},
        {"amount": {"total": -817524, "currency": "CNY"}},
    ],
)
async def test_believed_news_without_readable_money_is_taken_and_finance_looks_at_it(
    real_doors: Doors, change: dict[str, Any]
) -> None:
    number = await opened_number(real_doors)
    notice = WechatNotice(plaintext=transaction(out_trade_no=number, **change))

    answers = [(await real_doors.ring(WECHAT_DOOR, *notice.sent()))[0] for _ in range(2)]

    assert answers == [200, 200]
    (incident,) = await api.list_incidents()
    assert (incident.kind, incident.owner) == ("unreadable_news", "finance")
    assert incident.out_trade_no == number
    assert await count("ledger_transfer", MONEY) == 0
    assert await count("pay_order", "state <> 'open'") == 0
    assert await count("pay_notice") == 1


@pytest.mark.parametrize("change", [{"mchid": "1900000999"}, {"appid": "wx0000000000000000"}])
async def test_notices_for_others_are_refused(real_doors: Doors, change: dict[str, Any]) -> None:
    number = await opened_number(real_doors)
    notice = WechatNotice(plaintext=transaction(out_trade_no=number, **change))

    status, _ = await real_doors.ring(WECHAT_DOOR, *notice.sent())

    assert 400 <= status < 500
    assert await nothing_happened()


async def test_unsigned_altered_and_probing_notices_are_refused(real_doors: Doors) -> None:
    number = await opened_number(real_doors)
    headers, body = WechatNotice(plaintext=transaction(out_trade_no=number)).sent()
    unsigned = {k: v for k, v in headers.items() if k != "wechatpay-signature"}
    probe = {**headers, "wechatpay-signature": "WECHATPAY/SIGNTEST/" + "x" * 334}

    for spoilt, content in (
        (unsigned, body),
        (headers, body.replace(b"TRANSACTION", b"TRANSACTIOM")),
        (probe, body),
    ):
        status, _ = await real_doors.ring(WECHAT_DOOR, spoilt, content)
        assert 400 <= status < 500

    assert await nothing_happened()


async def test_a_forged_alipay_notice_is_refused(real_doors: Doors) -> None:
    number = await opened_number(real_doors, "alipay")
    fields = alipay_notice(out_trade_no=number)

    for forged in (
        alipay_form(fields, signer="a stranger"),
        alipay_form(fields, sign_type="RSA"),
        alipay_form({**fields, "app_id": "2021000000000999"}),
        alipay_form({**fields, "seller_id": "2088000000000999"}),
    ):
        status, said = await real_doors.ring(ALIPAY_DOOR, *forged)
        assert said != b"success"
        assert 400 <= status < 500

    assert await nothing_happened()


async def test_the_doorbell_refuses_wrong_types_sizes_and_addresses(real_doors: Doors) -> None:
    headers, body = WechatNotice().sent()

    too_long = await real_doors.ring(WECHAT_DOOR, headers, b"x" * (64 * 1024 + 1))
    wrong_type = await real_doors.ring(WECHAT_DOOR, {**headers, "content-type": "text/xml"}, body)
    nobody = await real_doors.ring("/notices/wechat-pay/1", headers, body)

    assert [too_long[0], wrong_type[0], nobody[0]] == [413, 415, 404]
    assert await nothing_happened()


async def test_money_for_an_unknown_order_is_acknowledged_and_owned(real_doors: Doors) -> None:
    """D10: neither dropped, nor blocking the channel's queue."""
    notice = WechatNotice(plaintext=transaction(out_trade_no="20260301NOBODYKNOWSTHIS1"))

    status, _ = await real_doors.ring(WECHAT_DOOR, *notice.sent())

    assert status == 200
    (incident,) = await api.list_incidents()
    assert (incident.kind, incident.owner) == ("unknown_order", "finance")
    assert await broken_invariants() == {}


async def test_a_notice_of_a_refund_is_kept_and_owned(real_doors: Doors) -> None:
    number = await opened_number(real_doors)
    notice = WechatNotice(
        event_type="REFUND.SUCCESS",
        plaintext={
            "mchid": "1900000109",
            "out_trade_no": number,
            "transaction_id": "4200002026030112345678901234",
            "out_refund_no": "R1",
            "refund_id": "5000",
            "refund_status": "SUCCESS",
            "amount": {"total": 817524, "refund": 100, "payer_total": 817524, "payer_refund": 100},
        },
    )

    status, _ = await real_doors.ring(WECHAT_DOOR, *notice.sent())

    assert status == 200
    (incident,) = await api.list_incidents()
    assert incident.kind == "unexpected_refund"


@contextmanager
def nothing_settles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionError("the database restarts")

    with monkeypatch.context() as patch:
        patch.setattr("estation.payments.actions.settle.lock_for_news", broken)
        yield


async def test_what_cannot_be_settled_is_refused_to_the_channel_and_settled_later(
    real_doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = await opened_number(real_doors)
    notice = WechatNotice(plaintext=transaction(out_trade_no=number))
    with nothing_settles(monkeypatch):
        status, said = await real_doors.ring(WECHAT_DOOR, *notice.sent())
    waiting = await count("pay_notice", "handled_at is null")
    await jobs.redrive_inbox(real_doors.app.ctx, now=NOW + timedelta(seconds=5))

    assert (status, json.loads(said)["code"]) == (500, "FAIL")
    assert waiting == 1
    assert await count("ledger_transfer", MONEY) == 1
    assert await count("pay_notice", "handled_at is not null") == 1


@pytest.mark.parametrize(("place", "door"), [("notice_desk", "submit"), ("notice_door", "enter")])
async def test_a_full_desk_or_door_asks_the_channel_to_come_again(
    real_doors: Doors, monkeypatch: pytest.MonkeyPatch, place: str, door: str
) -> None:
    async def full(*item: object) -> None:
        raise Overloaded

    monkeypatch.setattr(getattr(real_doors.app.ctx, place), door, full)

    status, _ = await real_doors.ring(WECHAT_DOOR, *WechatNotice().sent())

    assert status == 503
    assert await nothing_happened()


async def test_a_citizen_pays_through_the_json_interface(doors: Doors) -> None:
    bill = await make_bill(doors.city.person_id)
    body = {"bills": [{"bill_id": str(bill.id), "version": 1}], "expected_fen": TOTAL}

    made, order = await doors.ask("POST", "/api/orders", json=body)
    path = f"/api/orders/{order['id']}"
    given, attempt = await doors.ask(
        "POST", f"{path}/attempts", json={"channel": "wechat_pay", "scene": "native"}
    )
    number = attempt["out_trade_no"]
    doors.city.wechat.pay(number)
    rung, _ = await doors.ring(
        WECHAT_DOOR,
        {"content-type": "application/json", "wechatpay-signature": "good"},
        json.dumps({"out_trade_no": number}).encode(),
    )
    seen, after = await doors.ask("GET", path)

    assert (made, given, rung, seen) == (201, 200, 200, 200)
    assert attempt["qr_content"] == f"code://{number}"
    assert (order["state"], after["state"]) == ("open", "paid")
    assert sum(split["amount_fen"] for split in after["splits"]) == TOTAL


async def test_a_second_order_for_the_bill_is_told_of_the_first(doors: Doors) -> None:
    bill = await make_bill(doors.city.person_id)
    body = {"bills": [{"bill_id": str(bill.id), "version": 1}], "expected_fen": TOTAL}
    _, order = await doors.ask("POST", "/api/orders", json=body)

    status, told = await doors.ask("POST", "/api/orders", json=body)

    assert (status, told["code"]) == (409, "order_already_open")
    assert told["details"]["order_id"] == order["id"]


@pytest.mark.parametrize(
    "expected_fen",
    [8255.24, "825524", -1, 0, 10**30, True, None],
)
async def test_what_is_no_amount_is_refused(doors: Doors, expected_fen: object) -> None:
    bill = await make_bill(doors.city.person_id)
    body = {"bills": [{"bill_id": str(bill.id), "version": 1}], "expected_fen": expected_fen}

    status, told = await doors.ask("POST", "/api/orders", json=body)

    assert (status, told["code"]) == (422, "invalid_input")
    assert await count("pay_order") == 0


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b"{", 400, "not_json"),
        ("application/json", b"\xff\xfe", 400, "not_json"),
        ("application/json", b"", 400, "not_json"),
        ("application/json", b"[]", 422, "invalid_input"),
        ("application/json", b'{"bills":[],"expected_fen":1,"state":"paid"}', 422, "invalid_input"),
        ("application/json", b'{"bills":[],"expected_fen":1}', 422, "invalid_input"),
        ("application/json", b'{"bills":"' + b"x" * 20_000 + b'"}', 413, "body_too_large"),
        ("text/plain", b"{}", 415, "wrong_content_type"),
        ("application/x-www-form-urlencoded", b"a=1", 415, "wrong_content_type"),
    ],
)
async def test_bad_bodies_have_stable_codes(
    doors: Doors, content_type: str, body: bytes, status: int, code: str
) -> None:
    async with doors.client.post(
        "/api/orders", data=body, headers={"content-type": content_type}
    ) as answer:
        told = await answer.json()

    assert (answer.status, told["code"]) == (status, code)
    assert await count("pay_order") == 0


async def test_an_order_of_somebody_else_is_not_found(doors: Doors) -> None:
    stranger = City()
    _, order, _ = await stranger.opened()

    for method, path in (
        ("GET", f"/api/orders/{order.id}"),
        ("GET", f"/api/orders/{order.id}/refunds"),
        ("POST", f"/api/orders/{order.id}/cancel"),
    ):
        assert (await doors.ask(method, path))[0] == 404
    status, told = await doors.ask(
        "POST",
        f"/api/orders/{order.id}/attempts",
        json={"channel": "wechat_pay", "scene": "native"},
    )

    assert (status, told["code"]) == (404, "order_not_found")


async def test_a_settled_notice_keeps_its_message_sealed_and_whole(real_doors: Doors) -> None:
    number = await opened_number(real_doors, "alipay")
    headers, body = alipay_form(alipay_notice(out_trade_no=number, buyer_id="2088102177891440"))

    for _ in range(2):
        await real_doors.ring(ALIPAY_DOOR, headers, body)

    (kept,) = await rows("select m.message_sealed as sealed, n.outcome"
                         " from pay_notice_message m join pay_notice n on n.id = m.id")  # fmt: skip
    assert kept["outcome"] == "applied"
    assert b"2088102177891440" not in kept["sealed"]
    message = opened_message(counterparts.VAULT, kept["sealed"])
    assert (message.believed_at, message.body) == (NOW, body)
    assert message.headers == {"content-type": headers["content-type"]}
    with pytest.raises(asyncpg.RaiseError, match="stays as it came"):
        await rows("with u as (update pay_notice_message set message_sealed = $1 returning id)"
                   " select id from u", b"another")  # fmt: skip


async def test_a_notice_that_waits_keeps_its_message_and_settles_without_another(
    real_doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = await opened_number(real_doors)
    notice = WechatNotice(plaintext=transaction(out_trade_no=number))
    with nothing_settles(monkeypatch):
        await real_doors.ring(WECHAT_DOOR, *notice.sent())
    assert await count("pay_notice_message") == 1
    await real_doors.ring(WECHAT_DOOR, *notice.sent())

    assert await count("pay_notice", "outcome = 'applied'") == 1
    assert await count("pay_notice_message m join pay_notice n on n.id = m.id") == 1


EVERYTHING = ("ledger_transfer", "ledger_entry", "pay_order", "pay_order_bill", "pay_attempt",
              "bill", "pay_refund", "incident", "incident_action", "outbox_message",
              "pay_notice", "pay_notice_message", "ledger_block")  # fmt: skip


async def every_row() -> dict[str, str]:
    return {
        table: (await rows(f"select coalesce(string_agg(t::text, E'\\n' order by t::text), '')"
                           f" as all_of_it from {table} t"))[0]["all_of_it"]
        for table in EVERYTHING
    }  # fmt: skip


async def test_the_whole_inbox_replayed_twice_changes_no_row(real_doors: Doors) -> None:
    """O6: at any time, also long after a notice's age would have it refused at the door."""
    chance = random.Random(6)  # noqa: S311
    for turn in range(12):
        channel = chance.choice(["wechat_pay", "alipay"])
        number = await opened_number(real_doors, channel)
        if turn % 4 == 3:
            number = f"20260301NOBODY{turn:010d}"
        for _ in range(chance.choice([1, 1, 2])):
            if channel == "alipay":
                paid = alipay_notice(out_trade_no=number, trade_no=f"20260301220014{turn:014d}")
                assert (await real_doors.ring(ALIPAY_DOOR, *alipay_form(paid)))[0] == 200
                continue
            money = {"total": chance.choice([817_524, 817_524, 1]), "currency": "CNY"}
            trade_no = f"420000{chance.randrange(3 * 12):022d}"
            paid = transaction(out_trade_no=number, amount=money, transaction_id=trade_no)
            news = WechatNotice(plaintext=paid, notice_id=f"EV-{turn}")
            assert (await real_doors.ring(WECHAT_DOOR, *news.sent()))[0] == 200
        if chance.random() < 0.4:
            back = counterparts.refund(out_trade_no=number, out_refund_no=f"R{turn}")
            told = WechatNotice(plaintext=back, event_type="REFUND.SUCCESS")
            assert (await real_doors.ring(WECHAT_DOOR, *told.sent()))[0] == 200
    await seal(NOW)
    before, kept = await every_row(), await count("pay_notice_message")

    replays = [
        await replaying.replay_inbox(real_doors.app.ctx, now=NOW + timedelta(days=days))
        for days in (30, 31)
    ]
    await seal(NOW)

    assert await every_row() == before
    assert kept >= 12
    for replayed in replays:
        assert (replayed.read, replayed.unbelieved, replayed.failed) == (kept, 0, 0)
        assert "applied" not in replayed.outcomes


async def test_a_replay_leaves_a_refund_that_was_redirected_on_its_way(real_doors: Doors) -> None:
    """And one that has arrived: its news are steps that may be taken twice."""
    numbers = [await opened_number(real_doors) for _ in range(2)]
    for turn, number in enumerate(numbers):
        for trade in (f"42000{turn}{1:022d}", f"42000{turn}{2:022d}"):
            paid = transaction(out_trade_no=number, transaction_id=trade)
            await real_doors.ring(WECHAT_DOOR, *WechatNotice(plaintext=paid).sent())
    for refund in await rows("select refund_no, out_trade_no from pay_refund"):
        back = counterparts.refund(
            out_trade_no=refund["out_trade_no"], out_refund_no=refund["refund_no"],
            refund_status="ABNORMAL", success_time=None,
            amount={"total": 817_524, "refund": 817_524, "payer_total": 817_524,
                    "payer_refund": 817_524},
        )  # fmt: skip
        news = [("REFUND.ABNORMAL", back)]
        if refund["out_trade_no"] == numbers[1]:
            arrived = {"refund_status": "SUCCESS", "success_time": "2026-03-01T10:00:00+08:00"}
            news.append(("REFUND.SUCCESS", {**back, **arrived}))
        for event, said in news:
            told = WechatNotice(plaintext=said, event_type=event)
            assert (await real_doors.ring(WECHAT_DOOR, *told.sent()))[0] == 200
    redirected = await rows(
        """with u as (update pay_refund set state = 'processing', next_try_at = now()
                      where state = 'abnormal' returning id) select id from u"""
    )
    assert len(redirected) == await count("pay_refund", "state = 'succeeded'") == 1
    before = await every_row()

    replayed = await replaying.replay_inbox(real_doors.app.ctx, now=NOW + timedelta(days=30))

    assert await every_row() == before
    assert (replayed.read, replayed.failed, replayed.outcomes) == (7, 0, {"repeated": 7})


async def test_a_replay_settles_what_a_restored_database_does_not_know(real_doors: Doors) -> None:
    """The inbox is younger than the books beside it: its message brings the money, once."""
    number = await opened_number(real_doors)
    headers, body = WechatNotice(plaintext=transaction(out_trade_no=number)).sent()
    message = sealed_message(counterparts.VAULT, headers, body, believed_at=NOW)
    notice_id = ids.row_id(NOW)
    await rows(
        """insert into pay_notice (id, channel, account_id, event_key, kind, out_trade_no,
               plaintext, received_at, handled_at, outcome, tries, last_error)
           values ($1, 'wechat_pay', 'wechat_pay:1900000109', 'E1', 'TRANSACTION.SUCCESS', $2,
               '{}', $3, $3, 'applied', 0, '')""",
        notice_id,
        number,
        NOW,
    )
    await rows("insert into pay_notice_message values ($1, $2)", notice_id, message)

    first = await replaying.replay_inbox(real_doors.app.ctx, now=NOW + timedelta(days=1))
    second = await replaying.replay_inbox(real_doors.app.ctx, now=NOW + timedelta(days=2))

    assert (first.outcomes["applied"], second.outcomes["applied"]) == (1, 0)
    assert await count("ledger_transfer", MONEY) == 1
    assert await count("pay_order", "state = 'paid'") == 1
    assert await broken_invariants() == {}


async def test_a_message_of_a_key_that_is_no_more_is_told_and_moves_nothing(
    real_doors: Doors,
) -> None:
    number = await opened_number(real_doors)
    notice = WechatNotice(plaintext=transaction(out_trade_no=number))
    await real_doors.ring(WECHAT_DOOR, *notice.sent())
    other = counterparts.wechat_pay_channel(public_key_file="platform-2")
    cast(dict[str, PayChannel], real_doors.app.ctx.channels)[other.account_id] = other
    before = await every_row()

    replayed = await replaying.replay_inbox(real_doors.app.ctx, now=NOW + timedelta(days=1))

    assert (replayed.read, replayed.unbelieved) == (1, 1)
    assert await every_row() == before


async def test_more_messages_than_one_statement_takes_go_in_one_call(
    real_doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "FORGET_AT_ONCE", 2)
    for turn in range(5):
        news = transaction(out_trade_no=f"20260301NOBODY{turn:010d}", transaction_id=f"42{turn}")
        await real_doors.ring(WECHAT_DOOR, *WechatNotice(plaintext=news).sent())

    gone = await jobs.forget_messages(now=NOW + rules.MESSAGES_KEPT + timedelta(seconds=1))

    assert gone == {"forgotten": 5}
    assert await count("pay_notice_message") == 0


async def test_messages_go_after_half_a_year_and_what_they_said_stays(real_doors: Doors) -> None:
    number = await opened_number(real_doors)
    notice = WechatNotice(plaintext=transaction(out_trade_no=number))
    await real_doors.ring(WECHAT_DOOR, *notice.sent())

    early = await jobs.forget_messages(now=NOW + rules.MESSAGES_KEPT - timedelta(seconds=1))
    kept = await count("pay_notice_message")
    late = await jobs.forget_messages(now=NOW + rules.MESSAGES_KEPT + timedelta(seconds=1))

    assert (early, kept, late) == ({"forgotten": 0}, 1, {"forgotten": 1})
    assert await count("pay_notice_message") == 0
    assert await count("pay_notice", "plaintext->>'trade_state' = 'SUCCESS'") == 1


async def test_a_program_of_the_payers_reads_how_a_refund_stands(doors: Doors) -> None:
    """A mini-program has the JSON interface alone."""
    city = doors.city
    _, order, number = await city.opened()
    path = f"/api/orders/{order.id}"
    none = await doors.ask("GET", f"{path}/refunds")
    await doors.ask("POST", f"{path}/cancel")
    city.wechat.pay(number)
    await api.settle_batch([api.from_report(city.wechat.report(number))], now=NOW)

    under_way = await doors.ask("GET", f"{path}/refunds")
    await jobs.send_refunds(city.services, now=NOW)
    (refund_no,) = city.wechat.refunds
    done = api.from_refund(city.wechat.finish(refund_no, at=NOW))
    await api.settle_batch([done], now=NOW)
    _, (refund,) = await doors.ask("GET", f"{path}/refunds")

    assert none == (200, [])
    assert [one["state"] for one in under_way[1]] == ["refunding"]
    assert (refund["state"], refund["refund_no"]) == ("refunded", refund_no)
    assert (refund["amount_fen"], refund["is_of_payment"]) == (TOTAL, False)
