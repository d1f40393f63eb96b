"""WeChat login and API tokens: errcode in HTTP 200, codes once, tokens stable."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.sandbox.running import RunningSandbox

BACK = "http://127.0.0.1:9/wechat/callback?next=%2Ffees"


async def _authorize(sandbox: RunningSandbox, **changes: str) -> Any:
    query = {
        "appid": sandbox.credentials["wechat"]["appid"],
        "redirect_uri": BACK,
        "response_type": "code",
        "scope": "snsapi_base",
        "state": "abc",
        **changes,
    }
    url = f"{sandbox.credentials['wechat']['oauth_url']}/connect/oauth2/authorize"
    return await sandbox.http.get(url, params=query, allow_redirects=False)


async def _code(sandbox: RunningSandbox, persona: str = "lin") -> str:
    answer = await _authorize(sandbox, persona=persona)
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert query["state"] == ["abc"]
    assert query["next"] == ["/fees"]
    return query["code"][0]


async def _exchange(sandbox: RunningSandbox, code: str, **changes: str) -> dict[str, Any]:
    account = sandbox.credentials["wechat"]
    query = {
        "appid": account["appid"],
        "secret": account["secret"],
        "code": code,
        "grant_type": "authorization_code",
        **changes,
    }
    async with sandbox.http.get(
        f"{account['api_url']}/sns/oauth2/access_token", params=query
    ) as answer:
        assert answer.status == 200
        told: dict[str, Any] = await answer.json(content_type=None)
        return told


async def test_a_person_chooses_who_they_are(sandbox: RunningSandbox) -> None:
    answer = await _authorize(sandbox)

    page = await answer.text()
    assert answer.status == 200
    assert "林晓舟" in page
    assert "persona=lin" in page


async def test_a_code_becomes_an_openid_once(sandbox: RunningSandbox) -> None:
    code = await _code(sandbox, "zhou")

    first = await _exchange(sandbox, code)
    again = await _exchange(sandbox, code)

    assert first["openid"] == "oSandbox-ZhouJianguo00000002"
    assert first["scope"] == "snsapi_base"
    assert again["errcode"] == 40163


async def test_wrong_old_and_foreign_codes_are_told_apart(sandbox: RunningSandbox) -> None:
    code = await _code(sandbox)

    wrong_secret = await _exchange(sandbox, code, secret="x")
    wrong_app = await _exchange(sandbox, code, appid="wx0")
    invalid = await _exchange(sandbox, "nonsense")
    await sandbox.advance(301)
    expired = await _exchange(sandbox, code)

    assert [told["errcode"] for told in (wrong_secret, wrong_app, invalid, expired)] == [
        *(40125, 40013),
        *(40029, 42003),
    ]


async def test_a_foreign_address_or_appid_gets_no_code(sandbox: RunningSandbox) -> None:
    script = await _authorize(sandbox, redirect_uri="javascript:alert(1)", persona="lin")
    app = await _authorize(sandbox, appid="wx0", persona="lin")

    assert (script.status, app.status) == (400, 400)


async def test_the_stable_token_is_stable(sandbox: RunningSandbox) -> None:
    account = sandbox.credentials["wechat"]

    async def token(**changes: Any) -> dict[str, Any]:
        body = {
            "grant_type": "client_credential",
            "appid": account["appid"],
            "secret": account["secret"],
            **changes,
        }
        async with sandbox.http.post(
            f"{account['api_url']}/cgi-bin/stable_token", json=body
        ) as answer:
            told: dict[str, Any] = await answer.json(content_type=None)
            return told

    first = await token()
    again = await token()
    await sandbox.advance(7000)
    renewed = await token()
    forced = await token(force_refresh=True)

    assert again["access_token"] == first["access_token"]
    assert renewed["access_token"] != first["access_token"]
    assert forced["access_token"] != renewed["access_token"]
    assert min(first["expires_in"], again["expires_in"], renewed["expires_in"]) >= 300
    assert (await token(secret="x"))["errcode"] == 40125


async def test_a_mini_program_login_gives_the_openid_of_its_own_appid(
    sandbox: RunningSandbox,
) -> None:
    account = sandbox.credentials["wechat"]
    code = (await sandbox.control("mini_login", persona="lin"))["js_code"]
    query = {
        "appid": account["mini_appid"],
        "secret": account["mini_secret"],
        "js_code": code,
        "grant_type": "authorization_code",
    }

    async def login(**changes: str) -> dict[str, Any]:
        async with sandbox.http.get(
            f"{account['api_url']}/sns/jscode2session", params=query | changes
        ) as answer:
            assert answer.status == 200
            told: dict[str, Any] = json.loads(await answer.text())
            return told

    wrong_app = await login(appid=account["appid"])
    wrong_secret = await login(secret=account["secret"])
    first = await login()
    again = await login()
    unknown = await login(js_code="nothing")

    assert first["openid"] == "oMiniApp-LinXiaozhou00000001"
    assert first["unionid"] == "uSandbox-LinXiaozhou00000001"
    assert len(first["session_key"]) == 24
    codes = [one["errcode"] for one in (wrong_app, wrong_secret, again, unknown)]
    assert codes == [40013, 40125, 40163, 40029]
