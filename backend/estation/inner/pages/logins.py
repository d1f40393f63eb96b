"""Login and logout."""

from sanic import HTTPResponse
from sanic.response import redirect

from estation.inner.actions import logins
from estation.inner.errors import LoginFailed, LoginLocked
from estation.inner.guards import (
    COOKIE,
    DeskRequest,
    clerk_of,
    form_of,
    local_path,
    now_of,
    public,
    settings_of,
    staff_only,
)
from estation.inner.rules import LONGEST_SESSION
from estation.shared.pages import render
from estation.shared.passwords import TooManyLogins


@public
async def show_login(request: DeskRequest) -> HTTPResponse:
    following = local_path(request.args.get("next") or "")
    if request.ctx.viewer is not None:
        return redirect(following, status=303)
    return render(request, "inner/login.html", login="", error="", following=following)


@public
async def log_in(request: DeskRequest) -> HTTPResponse:
    form = form_of(request)
    following = local_path(form.get("next", ""))
    login = form.get("login", "").strip()
    try:
        token = await logins.log_in(login, form.get("password", ""), now=now_of(request))
    except (LoginFailed, LoginLocked, TooManyLogins) as refusal:
        return render(
            request,
            "inner/login.html",
            status=refusal.http_status,
            login=login[:32],
            error=refusal.message,
            following=following,
        )
    answer = redirect(following, status=303)
    answer.add_cookie(
        COOKIE,
        token,
        path="/",
        httponly=True,
        samesite="Strict",
        secure=settings_of(request).environment != "local",
        max_age=int(LONGEST_SESSION.total_seconds()),
    )
    return answer


@staff_only()
async def log_out(request: DeskRequest) -> HTTPResponse:
    await logins.log_out(clerk_of(request).session_id)
    answer = redirect("/login", status=303)
    answer.delete_cookie(COOKIE, path="/")
    return answer
