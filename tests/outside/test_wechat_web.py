"""Logins by WeChat, on a page and in the mini-program, and the short-message sender beside."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from estation.outside.sms import HttpSms, SmsFailed
from estation.outside.wechat import WechatIdentity, WechatRefused, WechatUnavailable
from estation.outside.wechat.mini_login import MiniLogin
from estation.outside.wechat.web_login import WebLogin
from estation.settings import MiniProgram, Wechat
from estation.shared import key_files
from estation.shared.key_files import KeyFiles
from tests.outside.listening import Heard, Listener, Reply, calling, listening


@dataclass
class Desk:
    login: WebLogin
    mini: MiniLogin
    sms: HttpSms
    there: Listener

    def say(self, *replies: Reply) -> None:
        self.there.say(*replies)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with listening() as there, calling() as session:
        settings = Wechat(
            api_url=f"{there.base_url}/wechat",
            oauth_url="https://open.weixin.qq.com",
            appid="wx8888888888888888",
            secret_file="wechat/app_secret",
        )
        login = WebLogin.from_settings(session, settings, KeyFiles(lambda _: b"s3cret&\n"))
        mini = MiniLogin.from_settings(
            session,
            MiniProgram(appid="wx9999999999999999", secret_file="wechat/mini_secret"),
            api_url=f"{there.base_url}/wechat/",
            files=KeyFiles(lambda _: b"m1ni&\n"),
        )
        yield Desk(login, mini, HttpSms(session, f"{there.base_url}/sms/send"), there)


def said(text: str, status: int = 200) -> web.Response:
    """WeChat answers JSON as text/plain."""
    return web.Response(text=text, status=status)


async def test_the_address_has_wechats_order_of_parameters(desk: Desk) -> None:
    url = desk.login.authorize_url(
        redirect_uri="https://e.example.cn/wechat/callback?next=/fees", state="abc-DEF_123"
    )

    assert url == (
        "https://open.weixin.qq.com/connect/oauth2/authorize?appid=wx8888888888888888"
        "&redirect_uri=https%3A%2F%2Fe.example.cn%2Fwechat%2Fcallback%3Fnext%3D%2Ffees"
        "&response_type=code&scope=snsapi_base&state=abc-DEF_123#wechat_redirect"
    )


@pytest.mark.parametrize("state", ["", "a" * 129, "a b", "状态", "a&b=c"])
async def test_a_state_wechat_would_not_return_is_refused(desk: Desk, state: str) -> None:
    with pytest.raises(ValueError, match="state"):
        desk.login.authorize_url(redirect_uri="https://e.example.cn/", state=state)


async def test_a_secret_that_was_reset_at_wechat_counts_as_soon_as_its_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_files, "LOOK_SECONDS", 0.0)
    file = tmp_path / "app_secret"
    file.write_text("first\n")
    files = KeyFiles(lambda name: (tmp_path / name).read_bytes(), lambda name: tmp_path / name)
    settings = Wechat(api_url="", oauth_url="https://o", appid="wx8", secret_file="app_secret")
    async with listening() as there, calling() as session:
        settings = settings.model_copy(update={"api_url": there.base_url})
        login = WebLogin.from_settings(session, settings, files)
        there.say(*[said('{"openid":"oLin"}') for _ in range(3)])

        for written in ("first\n", "second\n", "two words\n"):
            file.write_text(written)
            await login.identity_from_code("c")

    assert [heard.target.partition("secret=")[2][:6] for heard in there.heard] == [
        "first&",
        "second",
        "second",
    ]


async def test_a_code_becomes_an_openid(desk: Desk) -> None:
    desk.say(said('{"access_token":"x","expires_in":7200,"openid":"oLin","unionid":"uLin"}'))

    assert await desk.login.identity_from_code("c+1") == WechatIdentity("oLin", "uLin")
    assert desk.there.heard[0].target == (
        "/wechat/sns/oauth2/access_token?appid=wx8888888888888888&secret=s3cret%26"
        "&code=c%2B1&grant_type=authorization_code"
    )


async def test_preview_modes_fake_user_is_marked(desk: Desk) -> None:
    desk.say(said('{"openid":"oFake","is_snapshotuser":1}'))

    assert (await desk.login.identity_from_code("c")).is_snapshot_user


@pytest.mark.parametrize("errcode", [40029, 40163, 42003])
async def test_an_error_comes_with_status_200(desk: Desk, errcode: int) -> None:
    desk.say(said(f'{{"errcode":{errcode},"errmsg":"invalid code, rid: x"}}'))

    with pytest.raises(WechatRefused) as raised:
        await desk.login.identity_from_code("c")

    assert raised.value.errcode == errcode


@pytest.mark.parametrize(
    "reply",
    [
        said('{"errcode":-1,"errmsg":"system error"}'),
        said('{"errcode":"40029"}'),
        said('{"openid":""}'),
        said('{"openid":5}'),
        said("{}"),
        said("[]"),
        said("<html>"),
        said("{}", 502),
        said(" " * 100_000),
        web.Response(status=302, headers={"Location": "/"}),
    ],
)
async def test_an_answer_without_an_openid_is_no_identity(desk: Desk, reply: web.Response) -> None:
    desk.say(reply)

    with pytest.raises(WechatUnavailable):
        await desk.login.identity_from_code("c")

    assert len(desk.there.heard) == 1


async def test_no_failure_tells_the_secret() -> None:
    async with calling() as session:
        login = WebLogin(
            session,
            api_url="http://127.0.0.1:9",
            oauth_url="x",
            appid="wx8",
            secret=lambda: "s3cret",
        )
        with pytest.raises(WechatUnavailable) as raised:
            await login.identity_from_code("c")

    assert "s3cret" not in f"{raised.value!r} {raised.value.__cause__!r}"


async def test_a_mini_programs_code_becomes_an_openid_and_nothing_more(desk: Desk) -> None:
    desk.say(said('{"openid":"oMini","session_key":"tiihtNczf5v6AKRyjwEUhQ==","unionid":"uLin"}'))

    identity = await desk.mini.identity_from_mini_code("c+1")

    assert identity == WechatIdentity("oMini", "uLin")
    assert "tiih" not in repr(identity)
    assert desk.there.heard[0].target == (
        "/wechat/sns/jscode2session?appid=wx9999999999999999&secret=m1ni%26"
        "&js_code=c%2B1&grant_type=authorization_code"
    )


@pytest.mark.parametrize("errcode", [40029, 40163, 40226, 45011])
async def test_a_mini_programs_error_comes_with_status_200(desk: Desk, errcode: int) -> None:
    desk.say(said(f'{{"errcode":{errcode},"errmsg":"invalid code, rid: x"}}'))

    with pytest.raises(WechatRefused) as raised:
        await desk.mini.identity_from_mini_code("c")

    assert raised.value.errcode == errcode


@pytest.mark.parametrize(
    "reply",
    [
        said('{"errcode":-1,"errmsg":"system error"}'),
        said('{"session_key":"x"}'),
        said('{"openid":["o"],"session_key":"x"}'),
        said("<html>"),
        said("{}", 502),
    ],
)
async def test_a_busy_or_unreadable_answer_is_no_mini_program_user(
    desk: Desk, reply: web.Response
) -> None:
    desk.say(reply)

    with pytest.raises(WechatUnavailable):
        await desk.mini.identity_from_mini_code("c")


async def test_a_message_is_posted_as_json(desk: Desk) -> None:
    desk.say(web.json_response({"ok": True}))

    await desk.sms.send(phone="13800000001", text="验证码 123456")

    assert desk.there.heard[0].method == "POST"
    assert "13800000001" in desk.there.heard[0].body.decode()


@pytest.mark.parametrize("status", [302, 400, 500])
async def test_a_message_that_was_not_taken_has_failed(desk: Desk, status: int) -> None:
    desk.say(web.Response(status=status, headers={"Location": "/"}))

    with pytest.raises(SmsFailed):
        await desk.sms.send(phone="13800000001", text="x")


async def test_nobody_waits_for_a_caller_who_left(desk: Desk) -> None:
    async def silent(_: Heard) -> web.Response:
        await asyncio.sleep(0.5)
        return web.Response()

    desk.say(silent)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(desk.login.identity_from_code("c"), 0.1)
