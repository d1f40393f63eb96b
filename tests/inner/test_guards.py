"""Who may do what: every route is marked, and the marks hold."""

from typing import Any

import pytest
from sanic import Sanic

from estation.inner import personas
from estation.inner.app import create_app
from estation.inner.guards import local_path
from estation.inner.rules import Role
from tests.inner.desk import Browser, Desk, query

PUBLIC = {"/healthz", "/inner.css", "/login", "/metrics"}
FEE_CLERK_ONLY = {
    "/cases/<case_no:str>/bills/new",
    "/bills/<bill_no:str>/revise",
    "/bills/<bill_no:str>/withdraw",
    "/bills/<bill_no:str>/refunds",
    "/receipts/<receipt_id:uuid>/handled",
}
REGISTRAR_ONLY = {"/cases/new", "/cases/<case_no:str>/stages"}


def routes(desk: Desk) -> list[tuple[str, str, Any]]:
    Sanic.test_mode = True
    app = create_app(name=f"inner-routes-{id(desk)}", settings=desk.settings)
    return [
        (f"/{route.path}", method, route.handler)
        for route in app.router.routes
        for method in sorted(route.methods)
    ]


async def test_every_route_is_guarded_or_on_the_short_public_list(desk: Desk) -> None:
    found = routes(desk)

    unmarked = [path for path, _, handler in found if not hasattr(handler, "guard")]
    public = {path for path, _, handler in found if getattr(handler, "guard", "") == "public"}

    assert unmarked == []
    assert public == PUBLIC
    assert len(found) >= 19


async def test_money_belongs_to_the_fee_clerk_and_stages_to_the_registrar(desk: Desk) -> None:
    for path, method, handler in routes(desk):
        if path in FEE_CLERK_ONLY:
            assert handler.roles == {Role.FEE_CLERK}, path
        elif path in REGISTRAR_ONLY or (path, method) == ("/cases", "POST"):
            assert handler.roles == {Role.REGISTRAR}, path
        elif path not in PUBLIC:
            assert handler.roles == set(Role), path


ADDRESSES = [
    ("GET", "/"),
    ("GET", "/cases"),
    ("GET", "/cases/new"),
    ("GET", "/cases/202611230001"),
    ("GET", "/cases/202611230001/bills/new"),
    ("GET", "/bills/JF202611230001"),
    ("GET", "/bills/JF202611230001/revise"),
    ("GET", "/receipts"),
    ("GET", "/receipts/evidence"),
    ("POST", "/cases"),
    ("POST", "/cases/202611230001/stages"),
    ("POST", "/cases/202611230001/bills/new"),
    ("POST", "/bills/JF202611230001/revise"),
    ("POST", "/bills/JF202611230001/withdraw"),
    ("POST", "/receipts/01928374-0000-7000-8000-000000000000/handled"),
    ("POST", "/logout"),
]


async def test_nobody_sees_or_does_anything_without_login(desk: Desk, pages: Browser) -> None:
    await desk.issue()

    for method, path in ADDRESSES:
        answer = await (pages.get(path) if method == "GET" else pages.post(path))
        if method == "GET":
            assert answer.status == 303, path
            assert answer.location.startswith("/login?next="), path
        else:
            assert answer.status == 401, path


async def test_a_program_without_login_gets_a_code_instead_of_a_page(
    desk: Desk, pages: Browser
) -> None:
    pages.headers = {"accept": "application/json"}

    answer = await pages.get("/cases")

    assert answer.status == 401
    assert '"code":"login_required"' in answer.text


@pytest.mark.parametrize(
    ("officer", "paths"),
    [
        (personas.REGISTRAR, ["/bills/{bill}/withdraw", "/bills/{bill}/revise"]),
        (personas.REGISTRAR, ["/cases/{case}/bills/new"]),
        (personas.FEE_CLERK, ["/cases/{case}/stages", "/cases"]),
    ],
)
async def test_the_wrong_role_is_refused_and_nothing_changes(
    desk: Desk, pages: Browser, officer: personas.Officer, paths: list[str]
) -> None:
    bill_no = await desk.issue()
    case_no = (await query("select case_no from case_file"))[0]["case_no"]
    waiting = len(await query("select 1 from gate_outgoing_row"))
    await pages.log_in(officer)
    token = await pages.csrf_token()

    for path in paths:
        answer = await pages.post(path.format(bill=bill_no, case=case_no), csrf_token=token)
        assert answer.status == 403, path
        assert "岗位" in answer.text

    assert len(await query("select 1 from gate_outgoing_row")) == waiting


async def test_a_form_without_its_token_or_from_elsewhere_is_refused(
    desk: Desk, pages: Browser
) -> None:
    bill_no = await desk.issue()
    await pages.log_in(personas.FEE_CLERK)
    token = await pages.csrf_token()
    path = f"/bills/{bill_no}/withdraw"

    without = await pages.post(path, version="1", reason="x")
    wrong = await pages.post(path, version="1", reason="x", csrf_token="x")
    pages.headers = {**pages.headers, "origin": "http://elsewhere.example"}
    foreign = await pages.post(path, version="1", reason="x", csrf_token=token)
    pages.headers = {"accept": "text/html", "sec-fetch-site": "cross-site"}
    cross = await pages.post(path, version="1", reason="x", csrf_token=token)

    assert [answer.status for answer in (without, wrong, foreign, cross)] == [403] * 4
    assert (await query("select state from fee_bill"))[0]["state"] == "issued"


async def test_the_cookie_is_strict_and_not_for_scripts(desk: Desk, pages: Browser) -> None:
    answer = await pages.post(
        "/login", login=personas.REGISTRAR.login, password=personas.REGISTRAR.password
    )

    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    stored = await query("select token_digest from desk_session")
    assert stored[0]["token_digest"] not in cookie


async def test_half_an_hour_away_ends_the_session(desk: Desk, pages: Browser) -> None:
    await pages.log_in(personas.REGISTRAR)

    desk.later(minutes=29)
    still = await pages.get("/cases")
    desk.later(minutes=29)
    again = await pages.get("/cases")
    desk.later(minutes=31)
    ended = await pages.get("/cases")

    assert (still.status, again.status, ended.status) == (200, 200, 303)


async def test_twelve_hours_end_the_session_even_of_the_busiest(desk: Desk, pages: Browser) -> None:
    await pages.log_in(personas.REGISTRAR)
    statuses = []

    for _ in range(25):
        desk.later(minutes=29)
        statuses.append((await pages.get("/cases")).status)

    assert statuses[:24] == [200] * 24
    assert statuses[24] == 303


async def test_logging_out_ends_the_session(desk: Desk, pages: Browser) -> None:
    await pages.log_in(personas.REGISTRAR)

    out = await pages.post("/logout", csrf_token=await pages.csrf_token())

    assert (out.status, out.location) == (303, "/login")
    assert await query("select 1 from desk_session") == []
    assert (await pages.get("/cases")).status == 303


async def test_five_wrong_passwords_lock_for_a_quarter_of_an_hour(
    desk: Desk, pages: Browser
) -> None:
    login = personas.FEE_CLERK.login
    wrong = [await pages.post("/login", login=login, password="wrong") for _ in range(5)]

    locked = await pages.post("/login", login=login, password=personas.FEE_CLERK.password)
    desk.later(minutes=16)
    later = await pages.post("/login", login=login, password=personas.FEE_CLERK.password)

    assert [answer.status for answer in wrong] == [422] * 5
    assert "工号或密码不正确" in wrong[0].text
    assert locked.status == 429
    assert "锁定" in locked.text
    assert later.status == 303


async def test_unknown_and_disabled_accounts_look_like_wrong_passwords(
    desk: Desk, pages: Browser
) -> None:
    await query("update desk_user set disabled_at = now() where login = 'shoufei'")

    unknown = await pages.post("/login", login="nobody", password="x")
    disabled = await pages.post("/login", login="shoufei", password=personas.FEE_CLERK.password)

    assert (unknown.status, disabled.status) == (422, 422)
    assert "工号或密码不正确" in unknown.text
    assert "工号或密码不正确" in disabled.text


async def test_a_disabled_officer_is_out_at_once(desk: Desk, pages: Browser) -> None:
    await pages.log_in(personas.FEE_CLERK)

    await query("update desk_user set disabled_at = now()")

    assert (await pages.get("/cases")).status == 303


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/bills/JF1?x=1", "/bills/JF1?x=1"),
        ("https://elsewhere.example/", "/cases"),
        ("//elsewhere.example/", "/cases"),
        ("/\\elsewhere.example/", "/cases"),
        ("/cases\r\nset-cookie: x", "/cases"),
        ("", "/cases"),
    ],
)
def test_after_login_one_stays_here(given: str, path: str) -> None:
    assert local_path(given) == path
