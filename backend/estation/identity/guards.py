"""Who may call: every handler names one of these guards, and a test looks that it does."""

import functools
import hmac
import re
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeAlias
from urllib.parse import quote
from uuid import UUID

from sanic import HTTPResponse, Request
from sanic.response import empty, redirect

from estation.identity.actions.sessions import OpenedSession, touch
from estation.identity.errors import Forbidden, FormExpired, LoginRequired
from estation.identity.queries import Viewer, viewer_of
from estation.identity.rules import safe_next
from estation.services import OnlineRequest
from estation.shared.pages import wants_page

COOKIE = "estation_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
TOUCH_AFTER = timedelta(minutes=1)
"""One write a minute keeps a session from going idle; more would tell nothing new."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,128}")

P = ParamSpec("P")
Handler: TypeAlias = Callable[Concatenate[Any, P], Coroutine[Any, Any, HTTPResponse]]


@dataclass(frozen=True, slots=True)
class Citizen:
    """A confirmed person at the other end."""

    person_id: UUID
    name: str
    session_id: UUID
    openid: str | None
    appid: str | None  # whose openid it is; None: the official account's


async def attach_viewer(request: OnlineRequest) -> None:
    """Request middleware: who is asking, from the cookie or a bearer token; nobody is fine."""
    request.ctx.viewer, request.ctx.csrf_token, request.ctx.has_bearer = None, "", False
    if request.path.startswith(("/static/", "/notices/", "/healthz", "/metrics")):
        return
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    request.ctx.has_bearer = scheme.lower() == "bearer"
    token = bearer.strip() if request.ctx.has_bearer else request.cookies.get(COOKIE)
    if not token or not _TOKEN.fullmatch(token):
        return
    services, now = request.app.ctx, request.app.ctx.clock()
    viewer = await viewer_of(token, vault=services.vault, now=now)
    if viewer is None:
        return
    request.ctx.viewer, request.ctx.csrf_token = viewer, viewer.csrf_token
    if now - viewer.seen_at > TOUCH_AFTER:
        await touch(viewer.session_id, now=now)


def public(handler: Handler[P]) -> Handler[P]:
    """Anybody. A form sent from another site's page is refused all the same."""

    @functools.wraps(handler)
    async def guarded(request: Any, /, *args: P.args, **kwargs: P.kwargs) -> HTTPResponse:
        viewer = _viewer(request)
        if viewer is not None and "origin" not in request.headers:
            # An old browser that does not say whose page it was, with a session at stake.
            _require_own_form(request, viewer)
        _require_own_origin(request)
        return await handler(request, *args, **kwargs)

    return _marked(guarded, "public")


def citizen_only(handler: Handler[P]) -> Handler[P]:
    """A confirmed person; unsafe methods also need the session's form token."""

    @functools.wraps(handler)
    async def guarded(request: Any, /, *args: P.args, **kwargs: P.kwargs) -> HTTPResponse:
        viewer = _viewer(request)
        if viewer is None or viewer.person_id is None:
            return _to_login(request, "/login")
        _require_own_form(request, viewer)
        return await handler(request, *args, **kwargs)

    return _marked(guarded, "citizen")


def staff_only(*roles: str) -> Callable[[Handler[P]], Handler[P]]:
    """An officer of one of these roles (any role when none is named)."""

    def guard(handler: Handler[P]) -> Handler[P]:
        @functools.wraps(handler)
        async def guarded(request: Any, /, *args: P.args, **kwargs: P.kwargs) -> HTTPResponse:
            viewer = _viewer(request)
            if viewer is None or viewer.staff_id is None:
                return _to_login(request, "/staff/login")
            if roles and viewer.role not in roles:
                raise Forbidden
            _require_own_form(request, viewer)
            return await handler(request, *args, **kwargs)

        vars(guarded)["roles"] = frozenset(roles)  # read by the pages' navigation
        return _marked(guarded, "staff")

    return guard


def code_holder(
    resolve: Callable[[Any, str], Awaitable[Any]],
) -> Callable[[Handler[P]], Handler[P]]:
    """Whoever holds a code of ours, logged in or not; it stands in the path as `code`.

    `resolve` finds what the code opens, for `request.ctx.opened`, and raises a NotFound for any
    text we did not make. The code is the whole right and no cookie adds to it: a form sent from
    another site could do no more than its sender, who must know the code; it is refused all the
    same.
    """

    def guard(handler: Handler[P]) -> Handler[P]:
        @functools.wraps(handler)
        async def guarded(request: Any, /, *args: P.args, **kwargs: P.kwargs) -> HTTPResponse:
            _require_own_origin(request)
            request.ctx.opened = await resolve(request, str(kwargs.get("code", "")))
            return await handler(request, *args, **kwargs)

        return _marked(guarded, "code_holder")

    return guard


def citizen(request: Request[Any, Any]) -> Citizen:
    """The person behind a handler guarded by `citizen_only`. Raises LoginRequired elsewhere."""
    viewer = _viewer(request)
    if viewer is None or viewer.person_id is None:
        raise LoginRequired
    return Citizen(viewer.person_id, viewer.name, viewer.session_id, viewer.openid, viewer.appid)


def address_of(request: Request[Any, Any]) -> str:
    """Whose connection it is, by the word of the proxies we trust; an IPv6 one without brackets."""
    return (request.remote_addr or request.ip).strip("[]")


def set_session_cookie(
    request: OnlineRequest, response: HTTPResponse, opened: OpenedSession
) -> None:
    """HttpOnly, Lax (the payment's way back is a top-level navigation), Secure under https."""
    response.add_cookie(
        COOKIE,
        opened.token,
        httponly=True,
        samesite="Lax",
        secure=request.app.ctx.settings.public_url.startswith("https:"),
        expires=opened.expires_at,
        path="/",
    )


def clear_session_cookie(response: HTTPResponse) -> None:
    response.delete_cookie(COOKIE, path="/")


def _viewer(request: Request[Any, Any]) -> Viewer | None:
    viewer: Viewer | None = getattr(request.ctx, "viewer", None)
    return viewer


def _marked(guarded: Handler[P], kind: str) -> Handler[P]:
    vars(guarded)["guard"] = kind  # read by the architecture test
    return guarded


def _to_login(request: Request[Any, Any], address: str) -> HTTPResponse:
    """Programs get LoginRequired; people a way back to where they were."""
    if request.headers.get("hx-request"):
        # htmx would put the login page into the fragment: it must leave the page instead.
        page = re.sub(r"^https?://[^/?#]*", "", request.headers.get("hx-current-url", ""))
        return empty(status=401, headers={"hx-redirect": _with_next(address, page)})
    if not wants_page(request):
        raise LoginRequired
    query = f"?{request.query_string}" if request.query_string else ""
    back = request.path + query if request.method in SAFE_METHODS else ""
    return redirect(_with_next(address, back), status=303)


def _with_next(address: str, back: str) -> str:
    kept = safe_next(back, otherwise="")
    return f"{address}?next={quote(kept, safe='/')}" if kept else address


def _require_own_form(request: Request[Any, Any], viewer: Viewer) -> None:
    """A cookie is sent by any page; the form token only by ours. A bearer token is no cookie."""
    if request.method in SAFE_METHODS or request.ctx.has_bearer:
        return
    _require_own_origin(request)
    given = request.headers.get("x-csrf-token") or _form_token(request)
    if not hmac.compare_digest(given.encode(errors="replace"), viewer.csrf_token.encode()):
        raise FormExpired


def _require_own_origin(request: Request[Any, Any]) -> None:
    origin = request.headers.get("origin")
    if request.method in SAFE_METHODS or origin is None:
        return
    if origin.partition("://")[2] not in _own_hosts(request):
        raise FormExpired


def _own_hosts(request: Request[Any, Any]) -> set[str]:
    """As the browser asked, and as the city publishes us when a proxy asked for it."""
    settings = getattr(request.app.ctx, "settings", None)
    published = getattr(settings, "public_url", "").partition("://")[2].partition("/")[0]
    return {host for host in (request.host, published) if host}


def _form_token(request: Request[Any, Any]) -> str:
    form = request.form
    return str(form.get("csrf_token", "")) if form else ""
