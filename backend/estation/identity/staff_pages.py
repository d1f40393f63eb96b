"""Logging in and out as staff."""

from sanic import Blueprint, HTTPResponse
from sanic.response import redirect

from estation.identity.api import (
    clear_session_cookie,
    login_staff,
    logout,
    public,
    safe_next,
    set_session_cookie,
    staff_only,
)
from estation.identity.errors import WrongPassword
from estation.services import OnlineRequest
from estation.shared.pages import render
from estation.shared.passwords import TooManyLogins

bp = Blueprint("identity_staff_pages")

MAX_LOGIN = 32
MAX_PASSWORD = 256


@bp.get("/staff/login")
@public
async def show_login(request: OnlineRequest) -> HTTPResponse:
    """The form; `?next=` is where to go afterwards, within the staff pages."""
    return render(
        request, "staff/login.html", login="", problem="", next=_next(request.args.get("next"))
    )


@bp.post("/staff/login")
@public
async def do_login(request: OnlineRequest) -> HTTPResponse:
    """A new session for the right password, replacing the browser's old one; else 403 or 429."""
    login, password = _text(request, "login").strip(), _text(request, "password")
    onwards = _next(_text(request, "next"))
    viewer = request.ctx.viewer
    try:
        if "\0" in login or len(login) > MAX_LOGIN or len(password) > MAX_PASSWORD:
            raise WrongPassword
        opened = await login_staff(
            login=login,
            password=password,
            now=request.app.ctx.clock(),
            session_id=viewer.session_id if viewer else None,
        )
    except (WrongPassword, TooManyLogins) as refusal:
        return render(
            request,
            "staff/login.html",
            status=refusal.http_status,
            login=login[:MAX_LOGIN],
            problem=refusal.message,
            next=onwards,
        )
    response = redirect(onwards, status=303)
    set_session_cookie(request, response, opened)
    return response


@bp.post("/staff/logout")
@staff_only()
async def do_logout(request: OnlineRequest) -> HTTPResponse:
    await logout(request.ctx.viewer.session_id)
    response = redirect("/staff/login", status=303)
    clear_session_cookie(response)
    return response


def _text(request: OnlineRequest, name: str) -> str:
    return str(request.form.get(name, "")) if request.form else ""


def _next(text: object) -> str:
    onwards = safe_next(str(text or ""), otherwise="/staff")
    return onwards if onwards == "/staff" or onwards.startswith("/staff/") else "/staff"
