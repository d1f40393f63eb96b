"""Logging in inside the mini-program, over HTTP and against WeChat's jscode2session."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from estation.identity.api import upsert_persons
from estation.identity.models import Session, WechatBinding
from estation.identity.queries import openid_index, viewer_of
from estation.outside.wechat.mini_login import MiniLogin
from tests.identity.doors import NOW, Doors, open_doors
from tests.identity.people import ANNA, CENTRE, VAULT
from tests.outside.listening import Heard, Listener, calling, listening
from tests.scanning import tables_with

MINI_APPID = "wx9999999999999999"


@dataclass
class Phone:
    """A citizen's WeChat with the mini-program in it, and WeChat's server behind."""

    doors: Doors
    wechat: Listener

    async def enter(self, code: str = "good", token: str = "") -> tuple[int, dict[str, object]]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        status, answer = await self.doors.ask(
            "POST", "/api/wechat/mini-login", json={"code": code}, headers=headers
        )
        return status, answer

    async def prove(self, token: object) -> dict[str, object]:
        """Phone and person, as the mini-program does it: by the bearer token alone."""
        self.doors.client.cookie_jar.clear()
        bearer = {"authorization": f"Bearer {token}"}
        await self.doors.ask("POST", "/api/login/code", json={"phone": ANNA.phone})
        code = {"phone": ANNA.phone, "code": self.doors.sms.code}
        _, proven = await self.doors.ask("POST", "/api/login", json=code, headers=bearer)
        self.doors.client.cookie_jar.clear()
        bearer = {"authorization": f"Bearer {proven['token']}"}
        _, person = await self.doors.ask(
            "POST", "/api/login/person", json={"id_tail": ANNA.id_no[-6:]}, headers=bearer
        )
        self.doors.client.cookie_jar.clear()
        answer: dict[str, object] = person
        return answer


def jscode2session(heard: Heard) -> web.Response:
    """As WeChat: every code names its own user, `bad…` ones nobody; always status 200."""
    asked = parse_qs(urlsplit(heard.target).query)
    assert asked["appid"] == [MINI_APPID]
    code = asked["js_code"][0]
    if code.startswith("bad"):
        return web.Response(text='{"errcode":40029,"errmsg":"invalid code"}')
    return web.Response(text=f'{{"openid":"o-{code}","session_key":"SECRETKEY=="}}')


@pytest.fixture
async def phone(database: str) -> AsyncIterator[Phone]:
    await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
    async with listening() as there, calling() as session, open_doors() as doors:
        there.say(jscode2session)
        doors.services.mini_program = MiniLogin(
            session, api_url=there.base_url, appid=MINI_APPID, secret=lambda: "s"
        )
        yield Phone(doors, there)


async def viewer(answer: dict[str, object]):
    return await viewer_of(str(answer["token"]), vault=VAULT, now=NOW)


async def test_a_new_user_proves_phone_and_person_and_is_bound_to_this_appid(
    phone: Phone,
) -> None:
    status, begun = await phone.enter()
    assert (status, begun["needs_person"]) == (200, True)
    seen = await viewer(begun)
    assert (seen.person_id, seen.openid, seen.appid) == (None, "o-good", MINI_APPID)

    confirmed = await phone.prove(begun["token"])

    seen = await viewer(confirmed)
    assert seen.person_id is not None
    assert (seen.openid, seen.appid) == ("o-good", MINI_APPID)
    binding = await WechatBinding.get()
    assert (binding.appid, binding.openid_index, binding.person_id) == (
        MINI_APPID,
        openid_index("o-good", vault=VAULT),
        seen.person_id,
    )
    assert await tables_with(["o-good"]) == set()


async def test_a_bound_user_is_in_at_once(phone: Phone) -> None:
    _, begun = await phone.enter()
    person = await viewer(await phone.prove(begun["token"]))

    status, answer = await phone.enter()

    assert (status, answer["needs_person"]) == (200, False)
    seen = await viewer(answer)
    assert seen.person_id == person.person_id
    assert (seen.openid, seen.appid) == ("o-good", MINI_APPID)


async def test_the_same_openid_text_of_another_appid_is_nobody(phone: Phone) -> None:
    _, begun = await phone.enter()
    await phone.prove(begun["token"])
    await WechatBinding.all().update(appid="wx1")  # the official account's

    _, answer = await phone.enter()

    assert answer["needs_person"] is True


async def test_the_session_key_goes_nowhere(phone: Phone) -> None:
    _, answer = await phone.enter()

    assert "SECRETKEY" not in repr(answer)
    assert "SECRETKEY" not in repr(await Session.all().values())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"code": "bad"}, 403, "wechat_login_failed"),
        ({"code": ""}, 422, "invalid_input"),
        ({"code": "x" * 257}, 422, "invalid_input"),
        ({"code": 5}, 422, "invalid_input"),
        ({}, 422, "invalid_input"),
        ({"code": "x", "openid": "o-good"}, 422, "invalid_input"),
    ],
)
async def test_what_is_no_good_code_opens_nothing(
    phone: Phone, body: dict[str, object], status: int, code: str
) -> None:
    answer = await phone.doors.ask("POST", "/api/wechat/mini-login", json=body)

    assert (answer[0], answer[1]["code"]) == (status, code)
    assert await Session.all().count() == 0


async def test_a_city_without_a_mini_program_says_so_and_asks_nobody(phone: Phone) -> None:
    phone.doors.services.mini_program = None

    status, answer = await phone.enter()

    assert (status, answer["code"]) == (403, "wechat_login_failed")
    assert phone.wechat.heard == []


async def test_a_silent_wechat_is_a_refusal(phone: Phone) -> None:
    phone.wechat.say(web.Response(status=502))

    assert (await phone.enter())[0] == 403
    assert await Session.all().count() == 0


async def test_a_begun_login_is_replaced_and_a_citizens_session_is_not(phone: Phone) -> None:
    _, begun = await phone.enter("one")
    phone.doors.client.cookie_jar.clear()
    _, again = await phone.enter("two", token=str(begun["token"]))
    assert await viewer(begun) is None
    citizen = await phone.prove(again["token"])

    await phone.enter("three", token=str(citizen["token"]))

    assert (await viewer(citizen)).person_id is not None


async def test_a_login_by_phone_at_a_citizens_browser_takes_no_openid_along(
    phone: Phone,
) -> None:
    _, begun = await phone.enter()
    citizen = await phone.prove(begun["token"])
    phone.doors.wait(timedelta(minutes=2))

    other = await phone.prove(citizen["token"])

    seen = await viewer_of(str(other["token"]), vault=VAULT, now=phone.doors.clock[0])
    assert (seen.openid, seen.appid) == (None, None)
