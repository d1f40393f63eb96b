"""What people do in the official account reaches our door once, whatever WeChat's line does."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from wechatpy.crypto import WeChatCrypto
from wechatpy.utils import check_signature

from estation.official_account import actions, rules
from estation.official_account.actions import forget_messages
from estation.outside.wechat.messages import MessageDoor, MessageRejected, read_aes_key
from estation.sandbox import message_door
from estation.sandbox.world import persona
from estation.shared.clock import system_clock
from estation.shared.limiting import FloodBound
from tests.official_account.running import Account, running_account
from tests.outside.listening import Heard, listening
from tests.sandbox.running import RunningSandbox, running_sandbox

APPID = "wx8888888888888888"
AES_KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
TOKEN = "a-token"


@pytest.fixture
async def account(own_database_url: str, tmp_path: Path) -> AsyncIterator[Account]:
    async with running_account(tmp_path, database_url=own_database_url) as running:
        await running.listen()
        yield running


@pytest.mark.parametrize("mode", ["encrypted", "compatible"])
async def test_who_asks_for_paying_gets_the_way_to_it(account: Account, mode: str) -> None:
    await account.listen(mode)

    shown = await account.does(text="我要<缴费> & 开票")

    assert shown["outcome"] == "answered"
    assert f'<a href="{account.settings.public_url}/fees">' in shown["answer"]
    (heard,) = await account.heard()
    assert (heard["kind"], heard["deliveries"]) == ("text", 1)


async def test_an_account_without_a_key_is_spoken_to_in_clear(
    own_database_url: str, tmp_path: Path
) -> None:
    async with running_account(tmp_path, database_url=own_database_url, in_clear=True) as account:
        await account.listen("plain")

        shown = await account.does(text="人工")
        await account.trouble("stale")
        replayed = await account.does(text="人工")

        assert account.settings.hall.phone in shown["answer"]
        assert [one["status"] for one in replayed["deliveries"]] == [403]
        assert len(await account.heard()) == 1


async def test_an_answer_that_comes_late_twice_is_given_three_times_and_heard_once(
    account: Account,
) -> None:
    await account.trouble("late", count=2)

    shown = await account.does(text="缴费")

    assert [one["outcome"] for one in shown["deliveries"]] == ["late", "late", "answered"]
    assert "/fees" in shown["answer"]
    (heard,) = await account.heard()
    assert heard["deliveries"] == 3
    assert heard["reply"] == shown["answer"]


async def test_an_event_has_no_number_and_is_heard_once_all_the_same(account: Account) -> None:
    await account.trouble("late", count=2)

    first = await account.does(event="subscribe")
    other = await account.does(event="CLICK", event_key="pay")
    stranger = await account.does("zhou", event="subscribe")

    assert [len(one["deliveries"]) for one in (first, other, stranger)] == [3, 1, 1]
    heard = await account.heard()
    assert sorted((one["kind"], one["deliveries"]) for one in heard) == [
        ("event:CLICK", 1),
        ("event:subscribe", 1),
        ("event:subscribe", 3),
    ]


async def test_whoever_is_never_answered_in_time_is_told_so_and_was_heard_once(
    account: Account,
) -> None:
    await account.trouble("late", count=3)

    shown = await account.does(text="缴费")

    assert shown["answer"] == message_door.OUT_OF_SERVICE
    assert [one["deliveries"] for one in await account.heard()] == [3]


async def test_two_deliveries_at_once_are_one_message_and_both_are_answered(
    account: Account,
) -> None:
    await account.trouble("double")

    shown = await account.does(text="税费多少钱")

    assert [one["outcome"] for one in shown["deliveries"]] == ["answered", "answered"]
    assert [one["deliveries"] for one in await account.heard()] == [2]


@pytest.mark.parametrize("trouble", ["other_token", "stale", "other_appid", "tampered", "in_clear"])
async def test_what_is_not_from_wechat_to_us_is_refused_and_not_heard(
    account: Account, trouble: str
) -> None:
    await account.trouble(trouble)

    refused = await account.does(text="缴费")
    believed = await account.does(text="缴费")

    assert [(one["outcome"], one["status"]) for one in refused["deliveries"]] == [("refused", 403)]
    assert believed["outcome"] == "answered"
    assert len(await account.heard()) == 1


async def test_nobody_waits_for_words_after_leaving(account: Account) -> None:
    shown = await account.does(event="unsubscribe")

    assert (shown["outcome"], shown["answer"]) == ("silent", "")
    assert len(await account.heard()) == 1


async def test_what_was_heard_says_nothing_of_who_said_what_and_goes_after_a_day(
    account: Account,
) -> None:
    await account.does(text="我叫林晓舟，身份证 330106199001011234，缴费")
    now = account.online.now[0]

    (heard,) = await account.heard()
    early = await forget_messages(now=now + rules.KEPT - timedelta(seconds=1))
    late = await forget_messages(now=now + rules.KEPT + timedelta(seconds=1))

    assert set(heard) == {"key", "kind", "reply", "deliveries", "heard_at"}
    assert "林晓舟" not in str(heard)
    assert "oSandbox" not in str(heard)
    assert (early, late) == (0, 1)


async def test_as_many_go_as_are_past_their_time(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "FORGET_AT_ONCE", 1)
    for text in ("缴费", "人工", "开票"):
        await account.does(text=text)

    gone = await forget_messages(now=account.online.now[0] + rules.KEPT + timedelta(seconds=1))

    assert gone == 3
    assert await account.heard() == []


async def test_whoever_has_the_table_cannot_try_whose_event_it_was(account: Account) -> None:
    await account.does(event="subscribe")

    (heard,) = await account.heard()
    openid, at = persona("lin").openid, int(heard["heard_at"].timestamp())
    said = [f"{openid}:{moment}:subscribe:" for moment in range(at - 60, at + 60)]
    vault = account.online.app.ctx.vault

    assert heard["key"] not in {hashlib.sha256(one.encode()).hexdigest() for one in said}
    assert heard["key"] in {vault.index(f"account_message:{one}") for one in said}


async def test_an_address_that_only_sends_what_nobody_believes_is_turned_away_unread(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FloodBound, "PATIENCE", 5)
    monkeypatch.setattr(FloodBound, "BACK_PER_SECOND", 0)
    body = b'<?xml version="1.0" encoding="foo"?><xml/>'

    flood = [(await account.sandbox.http.post(account.door, data=body)).status for _ in range(8)]

    assert flood == [403] * 5 + [429] * 3
    assert await account.heard() == []


async def test_the_address_is_ours_only_with_our_token(account: Account) -> None:
    there = account.sandbox.http
    refused = await there.get(f"{account.door}?signature=x&timestamp=1&nonce=1&echostr=hi")
    flood = [
        (await there.post(f"{account.door}?msg_signature=x", data=b"<xml></xml>")).status
        for _ in range(3)
    ]

    assert refused.status == 403
    assert await refused.text() == ""
    assert set(flood) == {403}
    assert await account.heard() == []


async def test_the_door_is_closed_where_the_city_takes_no_messages(account: Account) -> None:
    account.online.app.ctx.message_door = None

    answer = await account.sandbox.http.post(account.door, data=b"<xml/>")

    assert answer.status == 404


async def test_the_conversation_and_the_menu_are_on_the_persons_phone(account: Account) -> None:
    await account.does(text="缴费")
    async with account.sandbox.http.post(
        f"{account.sandbox.base_url}/wechat/chat", data={"persona": "lin", "event": "subscribe"}
    ) as answer:
        page = await answer.text()

    assert answer.status == 200
    assert "您好，这里是江城市" in page
    assert f'<a href="{account.settings.public_url}/fees"' in page  # on the phone a link is one
    assert "第 1 次投递：✓ 已答复" in page


# The sandbox itself.


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(tmp_path) as running:
        yield running


async def test_wechat_waits_its_time_and_comes_twice_more(
    sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(heard: Heard) -> web.Response:
        if "echostr=" in heard.target:
            return web.Response(text=heard.target.partition("echostr=")[2].partition("&")[0])
        await asyncio.sleep(0.5)
        return web.Response(text="success")

    async with listening() as there:
        there.say(slow)
        await sandbox.control("message_address", url=f"{there.base_url}/door")
        monkeypatch.setattr(message_door, "ANSWER_SECONDS", 0.15)
        shown = await sandbox.control("message", persona="lin", text="缴费")

    assert [one["outcome"] for one in shown["deliveries"]] == ["late"] * 3
    assert shown["answer"] == message_door.OUT_OF_SERVICE
    signatures = {heard.target.partition("msg_signature=")[2] for heard in there.heard[1:]}
    assert len(signatures) == 3, "each delivery is signed anew"


@pytest.mark.parametrize(
    "garbage", ["{}", "<xml><Content>hi</Content></xml>", "<xml>", "Success", "ok"]
)
async def test_what_is_no_reply_is_told_to_the_person(
    sandbox: RunningSandbox, garbage: str
) -> None:
    def answer(heard: Heard) -> web.Response:
        return web.Response(text=heard.target.partition("echostr=")[2] or garbage)

    async with listening() as there:
        there.say(answer)
        await sandbox.control("message_address", url=f"{there.base_url}/door")
        shown = await sandbox.control("message", persona="lin", text="缴费")

    assert shown["outcome"] == "garbled"
    assert shown["answer"] == message_door.OUT_OF_SERVICE


async def test_an_address_that_does_not_echo_is_not_taken(sandbox: RunningSandbox) -> None:
    async with listening() as there:
        there.say(web.Response(text="hello"))
        answer = await sandbox.http.post(
            f"{sandbox.base_url}/control/message_address", json={"url": f"{there.base_url}/door"}
        )

    assert answer.status == 400
    assert (await sandbox.look("account"))["address"]["url"] == ""


# An independent reading of the same protocol.


def door(*, in_clear: bool = False) -> MessageDoor:
    key = None if in_clear else read_aes_key(f"{AES_KEY}\n".encode())
    return MessageDoor(
        token=lambda: TOKEN, appid=APPID, encoding_aes_key=(lambda: key) if key else None
    )


def test_wechatpy_seals_what_we_open_and_opens_what_we_seal() -> None:
    now = system_clock()
    theirs, stamp = WeChatCrypto(TOKEN, AES_KEY, APPID), str(int(now.timestamp()))
    said = "<xml><ToUserName>gh</ToUserName><FromUserName>o1</FromUserName><CreateTime>1</CreateTime><MsgType>text</MsgType><Content>契税&amp;</Content><MsgId>7</MsgId></xml>"  # noqa: E501
    outer = theirs.encrypt_message(said, "n", stamp)
    signature = outer.partition("<MsgSignature><![CDATA[")[2].partition("]")[0]
    query = {"timestamp": stamp, "nonce": "n", "msg_signature": signature}

    message = door().open(query, outer.encode(), now=now)
    reply = door().answer(message, "好 <a>&", now=now).decode()
    fields = {
        name: reply.partition(f"<{name}>")[2].partition("<")[0]
        for name in ("MsgSignature", "TimeStamp", "Nonce")
    }
    read = theirs.decrypt_message(
        reply, fields["MsgSignature"], fields["TimeStamp"], fields["Nonce"]
    )

    assert (message.openid, message.text, message.account) == ("o1", "契税&", "gh")
    assert "<Content>好 &lt;a&gt;&amp;</Content>" in read
    assert "<ToUserName>o1</ToUserName><FromUserName>gh</FromUserName>" in read


def test_wechatpys_signature_is_ours() -> None:
    now = system_clock()
    stamp = str(int(now.timestamp()))
    right = door()._signature(stamp, "n")

    check_signature(TOKEN, right, stamp, "n")

    query = {"signature": right, "timestamp": stamp, "nonce": "n", "echostr": "e"}
    assert door().echo(query, now=now) == b"e"
    for late in (-300, 300):
        with pytest.raises(MessageRejected, match="stale"):
            door().echo(query, now=now + timedelta(seconds=late + (1 if late > 0 else -1)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<xml>",
        b"\xff\xfe",
        b"<!DOCTYPE x [<!ENTITY e 'y'>]><xml><FromUserName>&e;</FromUserName></xml>",
        b"<xml><FromUserName>o</FromUserName></xml>",
        b"<xml><FromUserName>o</FromUserName><FromUserName>p</FromUserName></xml>",
        b"<xml>" + b"".join(b"<a%d/>" % n for n in range(60)) + b"</xml>",
        b"<xml><MsgType>text</MsgType><FromUserName>" + b"o" * 200 + b"</FromUserName></xml>",
        b"x" * 20_000,
        b'<?xml version="1.0" encoding="foo"?><xml/>',
        b'<?xml version="1.0" encoding="hex"?><xml/>',
        b'<?xml version="1.0" encoding="zlib_codec"?><xml/>',
    ],
)
def test_a_body_that_is_no_message_is_malformed(body: bytes) -> None:
    now = system_clock()
    clear = door(in_clear=True)
    stamp = str(int(now.timestamp()))
    query = {"timestamp": stamp, "nonce": "n", "signature": clear._signature(stamp, "n")}

    with pytest.raises(MessageRejected, match="malformed"):
        clear.open(query, body, now=now)


def test_a_thousand_broken_ciphertexts_are_refused_in_our_words() -> None:
    """Rightly signed, so that the sealed part itself is looked at."""
    chance, now = random.Random(3), system_clock()  # noqa: S311 -- a repeatable crowd
    ours, stamp = door(), str(int(now.timestamp()))
    whole = ours._encrypted(read_aes_key(AES_KEY.encode()), b"<xml><MsgType>text</MsgType></xml>")
    for _ in range(1000):
        at, length = chance.randrange(len(whole)), chance.randrange(len(whole))
        sealed = chance.choice(
            [whole[:at] + chance.choice("AZ9+/=!é") + whole[at + 1 :], whole[:length], whole * 2]
        )
        query = {"timestamp": stamp, "nonce": "n"}
        query["msg_signature"] = ours._signature(stamp, "n", sealed)
        with pytest.raises(MessageRejected):
            ours.open(query, f"<xml><Encrypt>{sealed}</Encrypt></xml>".encode(), now=now)


@pytest.mark.parametrize("key", ["short", AES_KEY + "A", "!" * 43])
def test_a_key_that_is_none_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- base64's own words are as good
        read_aes_key(key.encode())


def test_the_words_are_within_what_wechat_takes() -> None:
    city = rules.City("江城市", "https://e.example.cn", "登记大厅 0571-00000000（工作日）")
    for kind, event, key, text in (
        ("text", "", "", "缴费"),
        ("text", "", "", "人工"),
        ("image", "", "", ""),
        ("event", "subscribe", "", ""),
        ("event", "CLICK", "pay", ""),
        ("event", "CLICK", "other", ""),
    ):
        words = rules.reply_to(kind=kind, event=event, event_key=key, text=text, city=city)
        assert 0 < len(words.encode()) <= message_door.TEXT_BYTES
    for event in rules.SILENT:
        assert rules.reply_to(kind="event", event=event, event_key="", text="", city=city) == ""
