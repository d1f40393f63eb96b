"""Who may call: every handler names one of these guards, and a test looks that it does."""

import functools
import hmac
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeAlias
from urllib.parse import quote, urlsplit
from uuid import UUID

from sanic import HTTPResponse, Request
from sanic.response import redirect

from estation.identity.actions.sessions import OpenedSession, touch
from estation.identity.errors import Forbidden, FormExpired, LoginRequired
from estation.identity.queries import Viewer, viewer_of
from estation.services import OnlineRequest
from estation.shared.pages import wants_page

COOKIE = "estation_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
TOUCH_AFTER = timedelta(minutes=1)
"""One write a minute keeps a session from going idle; more would tell nothing new."""

P = ParamSpec("P")
Handler: TypeAlias = Callable[Concatenate[Any, P], Coroutine[Any, Any, HTTPResponse]]


@dataclass(frozen=True, slots=True)
class Citizen:
    """A confirmed person at the other end."""

    person_id: UUID
    name: str
    session_id: UUID
    openid: str | None


async def attach_viewer(request: OnlineRequest) -> None:
    """Request middleware: who is asking, from the cookie or a bearer token; nobody is fine."""
    request.ctx.viewer, request.ctx.csrf_token, request.ctx.has_bearer = None, "", False
    if request.path.startswith(("/static/", "/notices/", "/healthz", "/metrics")):
        return
    token, bearer = request.cookies.get(COOKIE), request.token
    if bearer:
        token, request.ctx.has_bearer = bearer, True
    if not token or len(token) > 128:
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

        return _marked(guarded, "staff")

    return guard


def citizen(request: Request[Any, Any]) -> Citizen:
    """The person behind a handler guarded by `citizen_only`. Raises LoginRequired elsewhere."""
    viewer = _viewer(request)
    if viewer is None or viewer.person_id is None:
        raise LoginRequired
    return Citizen(viewer.person_id, viewer.name, viewer.session_id, viewer.openid)


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
    guarded.guard = kind  # type: ignore[attr-defined]  # read by the architecture test
    return guarded


def _to_login(request: Request[Any, Any], address: str) -> HTTPResponse:
    if not wants_page(request):
        raise LoginRequired
    back = request.path if request.method in SAFE_METHODS else ""
    return redirect(f"{address}?next={quote(back, safe='/')}" if back else address, status=303)


def _require_own_form(request: Request[Any, Any], viewer: Viewer) -> None:
    """A cookie is sent by any page; the form token only by ours. A bearer token is no cookie."""
    if request.method in SAFE_METHODS or request.ctx.has_bearer:
        return
    _require_own_origin(request)
    given = request.headers.get("x-csrf-token") or _form_token(request)
    if not hmac.compare_digest(given.encode(), viewer.csrf_token.encode()):
        raise FormExpired


def _require_own_origin(request: Request[Any, Any]) -> None:
    origin = request.headers.get("origin")
    if request.method in SAFE_METHODS or origin is None:
        return
    if urlsplit(origin).netloc != request.host:
        raise FormExpired


def _form_token(request: Request[Any, Any]) -> str:
    form = request.form
    return str(form.get("csrf_token", "")) if form else ""
