"""Who is at the desk, and who may do what: every route carries exactly one of these marks."""

import functools
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit

from sanic import HTTPResponse, Request
from sanic.response import redirect

from estation.inner.actions import logins
from estation.inner.errors import ForeignForm, LoginRequired, NotYourRole
from estation.inner.rules import Role
from estation.inner.views import Clerk
from estation.settings import InnerSettings
from estation.shared.key_files import KeyFiles
from estation.shared.keyring import read_secrets
from estation.shared.pages import wants_page

COOKIE = "inner_session"
SAFE_METHODS = frozenset({"GET", "HEAD"})

DeskRequest: TypeAlias = Request[Any, Any]
Handler: TypeAlias = Callable[..., Coroutine[Any, Any, HTTPResponse]]


async def attach_viewer(request: DeskRequest) -> None:
    """Request middleware: `request.ctx.viewer` and the token its forms carry."""
    request.ctx.viewer = None
    request.ctx.csrf_token = ""
    token = request.cookies.get(COOKIE)
    if token and request.path not in ("/healthz", "/inner.css"):
        session = await logins.session_of(token, now=now_of(request))
        if session is not None:
            request.ctx.viewer = session.clerk
            request.ctx.csrf_token = session.csrf_token


def public(handler: Handler) -> Handler:
    """Anybody, logged in or not; forms must still come from our own pages."""

    @functools.wraps(handler)
    async def guarded(request: DeskRequest, *args: Any, **values: Any) -> HTTPResponse:
        if request.method not in SAFE_METHODS:
            _require_same_site(request)
        return await handler(request, *args, **values)

    return _marked(guarded, guard="public")


def staff_only(*roles: Role) -> Callable[[Handler], Handler]:
    """Officers of these roles; of any role when none is named."""
    allowed = frozenset(roles or Role)

    def mark(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def guarded(request: DeskRequest, *args: Any, **values: Any) -> HTTPResponse:
            clerk: Clerk | None = request.ctx.viewer
            if clerk is None:
                return _to_login(request)
            if clerk.role not in allowed:
                raise NotYourRole()
            if request.method not in SAFE_METHODS:
                _require_same_site(request)
                _require_form_token(request)
            return await handler(request, *args, **values)

        return _marked(guarded, guard="staff", roles=allowed)

    return mark


def clerk_of(request: DeskRequest) -> Clerk:
    """Who is at the desk. Raises LoginRequired outside of guarded routes."""
    clerk: Clerk | None = request.ctx.viewer
    if clerk is None:
        raise LoginRequired()
    return clerk


def pay_code_key_of(request: DeskRequest) -> bytes:
    """The newest; its file may be replaced while we run. Raises OSError while there is none yet,
    ValueError for what is no key."""
    ctx = request.app.ctx
    if not hasattr(ctx, "pay_code_keys"):
        files = KeyFiles.of(settings_of(request))
        watched = files.watch(settings_of(request).pay_code_key_file, parse=read_secrets)
        ctx.pay_code_keys = watched.current
    newest: bytes = ctx.pay_code_keys()[0]
    return newest


def settings_of(request: DeskRequest) -> InnerSettings:
    settings: InnerSettings = request.app.ctx.settings
    return settings


def now_of(request: DeskRequest) -> datetime:
    now: datetime = request.app.ctx.clock()
    return now


def form_of(request: DeskRequest) -> dict[str, str]:
    """The form's fields, blank ones included; of a repeated name the first."""
    form: dict[str, list[str]] = request.get_form(keep_blank_values=True) or {}
    return {name: values[0] for name, values in form.items() if values}


def local_path(text: str) -> str:
    """A path of this program to go on to after login; anything else becomes the case list."""
    parts = urlsplit(text)
    ours = text.startswith("/") and not text.startswith(("//", "/\\")) and not parts.netloc
    return text if ours and not any(ord(char) < 32 for char in text) else "/cases"


def _marked(handler: Handler, **marks: Any) -> Handler:
    """What the route test reads."""
    handler.__dict__.update(marks)
    return handler


def _to_login(request: DeskRequest) -> HTTPResponse:
    if request.method in SAFE_METHODS and wants_page(request):
        where = request.path + (f"?{request.query_string}" if request.query_string else "")
        return redirect(f"/login?next={quote(where)}", status=303)
    raise LoginRequired()


def _require_same_site(request: DeskRequest) -> None:
    """Browsers say where a form came from; programs that say nothing have no cookie to steal."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site not in (None, "same-origin", "none"):
        raise ForeignForm()
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise ForeignForm()


def _require_form_token(request: DeskRequest) -> None:
    given = form_of(request).get("csrf_token", "")
    if not given or not logins.same_token(given, request.ctx.csrf_token):
        raise ForeignForm()
