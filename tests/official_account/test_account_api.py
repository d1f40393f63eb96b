"""Calls of the official account's API: one token for all, renewed once, and a day's bound."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from estation.official_account import rules
from estation.outside.wechat import WechatRefused, WechatUnavailable
from estation.outside.wechat.access_tokens import OfficialAccountApi
from estation.sandbox.account_api import as_shown
from tests.outside.listening import calling
from tests.sandbox.running import RunningSandbox, running_sandbox

CITY = rules.City("江城市", "https://e.example.cn", "登记大厅 0571-00000000（工作日）")
MENU = "/cgi-bin/menu/create"


class Program:
    """One of our programs with its own token, its clock beside the sandbox's."""

    def __init__(self, sandbox: RunningSandbox, api: OfficialAccountApi) -> None:
        self.sandbox = sandbox
        self.api = api
        self.now = datetime.now(UTC)

    async def publish(self) -> None:
        await self.api.call(MENU, rules.menu(CITY))

    async def wait(self, **time: float) -> None:
        passed = timedelta(**time)
        self.now += passed
        await self.sandbox.advance(passed.total_seconds())

    async def trouble(self, kind: str, *, count: int = 1, only: str = "menu") -> None:
        await self.sandbox.fault(kind, target="api", channel="wechat", count=count, only=only)

    async def asked(self) -> int:
        return int((await self.sandbox.look("account"))["tokens_asked"])


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    async with running_sandbox(tmp_path) as sandbox, calling() as session:
        wechat = sandbox.credentials["wechat"]
        made: Program

        def clock() -> datetime:
            return made.now

        api = OfficialAccountApi(
            session,
            api_url=wechat["api_url"],
            appid=wechat["appid"],
            secret=lambda: wechat["secret"],
            clock=clock,
        )
        made = Program(sandbox, api)
        yield made


async def test_twenty_calls_at_once_ask_for_one_token(program: Program) -> None:
    await asyncio.gather(*(program.publish() for _ in range(20)))

    assert await program.asked() == 1
    menu = (await program.sandbox.look("account"))["menu"]
    assert [button["name"] for button in menu] == ["我要缴费", "办理进度", "怎样缴费"]


async def test_a_token_ended_elsewhere_is_renewed_once_for_all(program: Program) -> None:
    await program.publish()
    await program.trouble("token_ended")

    await asyncio.gather(*(program.publish() for _ in range(20)))

    assert await program.asked() == 2


async def test_the_token_is_renewed_before_its_end(program: Program) -> None:
    await program.publish()
    await program.wait(seconds=7100)
    await program.publish()
    await program.wait(seconds=100)

    await program.publish()

    assert await program.asked() == 2


async def test_an_expired_token_is_asked_for_anew_and_the_call_repeated(program: Program) -> None:
    await program.publish()
    await program.trouble("token_expired")

    await program.publish()

    # The same token was given again: WeChat thought it good, so it was ended by force.
    assert await program.asked() == 3


async def test_a_token_refused_for_ever_ends_in_a_refusal_not_in_a_loop(program: Program) -> None:
    await program.trouble("token_refused", count=1000)

    refusals = []
    for _ in range(10):
        with pytest.raises(WechatRefused) as raised:
            await program.publish()
        refusals.append(raised.value.errcode)

    assert refusals == [40001] * 10
    assert await program.asked() <= 1 + 1 + 10, "one forced renewal in thirty seconds"
    left = (await program.sandbox.look("faults"))["faults"][0]["remaining"]
    assert 1000 - left <= 2 * 10


async def test_when_the_days_calls_are_used_up_none_is_made_until_tomorrow(
    program: Program,
) -> None:
    program.now = datetime(2026, 3, 1, 15, 0, tzinfo=UTC)  # 23:00 in Beijing
    await program.trouble("quota", count=2)

    for _ in range(3):
        with pytest.raises(WechatRefused, match="45009"):
            await program.publish()
    left = (await program.sandbox.look("faults"))["faults"][0]["remaining"]
    await program.sandbox.http.delete(f"{program.sandbox.base_url}/control/faults")
    program.now += timedelta(hours=1)
    await program.publish()

    assert left == 1, "asked once that day"


async def test_the_tokens_own_quota_is_a_bound_as_well(program: Program) -> None:
    await program.trouble("quota", count=5, only="stable_token")

    for _ in range(4):
        with pytest.raises(WechatRefused, match="45009"):
            await program.publish()

    assert (await program.sandbox.look("faults"))["faults"][0]["remaining"] == 4


async def test_a_busy_wechat_is_no_answer_and_costs_no_token(program: Program) -> None:
    await program.publish()
    await program.trouble("busy")

    with pytest.raises(WechatUnavailable):
        await program.publish()

    await program.publish()
    assert await program.asked() == 1


async def test_a_wrong_secret_is_refused_and_is_in_no_words(
    program: Program, tmp_path: Path
) -> None:
    async with calling() as session:
        wechat = program.sandbox.credentials["wechat"]
        api = OfficialAccountApi(
            session,
            api_url=wechat["api_url"],
            appid=wechat["appid"],
            secret=lambda: "not-the-secret",
            clock=lambda: program.now,
        )
        with pytest.raises(WechatRefused) as raised:
            await api.call(MENU, rules.menu(CITY))

    assert raised.value.errcode == 40125
    assert "not-the-secret" not in str(raised.value)


# The sandbox's own tokens.


async def test_a_classic_token_ends_the_one_before_and_not_the_stable_one(
    program: Program,
) -> None:
    await program.publish()
    wechat = program.sandbox.credentials["wechat"]

    async def classic() -> str:
        query = {name: wechat[name] for name in ("appid", "secret")}
        async with program.sandbox.http.get(
            f"{wechat['api_url']}/cgi-bin/token",
            params={"grant_type": "client_credential", **query},
        ) as answer:
            return str((await answer.json(content_type=None))["access_token"])

    async def errcode(token: str) -> int:
        async with program.sandbox.http.post(
            f"{wechat['api_url']}{MENU}", params={"access_token": token}, json=rules.menu(CITY)
        ) as answer:
            assert answer.status == 200
            return int((await answer.json(content_type=None))["errcode"])

    first, second = await classic(), await classic()
    both = [await errcode(first), await errcode(second)]
    await program.wait(seconds=301)
    later = [await errcode(first), await errcode(second), await errcode("")]

    assert both == [0, 0]
    assert later == [42001, 0, 41001]
    await program.publish()
    assert await program.asked() == 1


async def test_a_menu_beyond_its_bounds_is_refused(program: Program) -> None:
    for button, errcode in (
        ({"type": "view", "name": "缴纳不动产税费", "url": "https://e"}, 40018),
        ({"type": "scan", "name": "缴费"}, 40017),
        ({"type": "view", "name": "缴费", "url": ""}, 40020),
        ({"type": "click", "name": "缴费", "key": "k" * 129}, 40019),
    ):
        with pytest.raises(WechatRefused) as raised:
            await program.api.call(MENU, {"button": [button]})
        assert raised.value.errcode == errcode


def test_the_phone_shows_links_and_no_other_markup() -> None:
    said = '去<a href="https://e.example/fees">缴费</a><b>吧</b><a href="javascript:x">x</a>'

    assert as_shown(said) == [
        ("去", ""),
        ("缴费", "https://e.example/fees"),
        ('<b>吧</b><a href="javascript:x">x</a>', ""),
    ]
    assert as_shown("") == []
