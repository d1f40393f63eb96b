"""Logging in as a citizen, and preferences; every step is a plain form."""

from typing import Any
from urllib.parse import quote

from sanic import Blueprint, HTTPResponse
from sanic.response import redirect

from estation.identity.actions.sessions import OpenedSession
from estation.identity.api import (
    Tier,
    address_of,
    begin_wechat_login,
    choose_person,
    clear_session_cookie,
    login_with_code,
    login_with_wechat,
    logout,
    public,
    safe_next,
    send_login_code,
    set_session_cookie,
)
from estation.identity.errors import (
    CodeTooSoon,
    InvalidPhone,
    LoginDead,
    LoginRequired,
    WrongCode,
    WrongPerson,
)
from estation.identity.rules import is_phone, masked_phone, needs_nobody
from estation.services import OnlineRequest
from estation.shared.errors import Refused
from estation.shared.pages import LARGE_PRINT_COOKIE, render

bp = Blueprint("identity_pages")

YEAR_SECONDS = 365 * 24 * 3600


@bp.get("/login", name="login")
@public
async def login_page(request: OnlineRequest) -> HTTPResponse:
    """Phone first; somebody already in goes on at once."""
    viewer, goes_to = request.ctx.viewer, safe_next(request.args.get("next"))
    if viewer is not None and viewer.person_id is not None:
        return redirect(goes_to, status=303)
    return _login_page(request, goes_to=goes_to)


@bp.post("/login/code", name="send_code")
@public
async def send_code(request: OnlineRequest) -> HTTPResponse:
    """Send the code and show where to write it. Never says whether we know the phone."""
    services, phone, goes_to = request.app.ctx, _phone(request), _goes_to(request)
    try:
        await send_login_code(
            phone=phone,
            address=address_of(request),
            vault=services.vault,
            sms=services.sms,
            now=services.clock(),
        )
    except InvalidPhone as refusal:
        errors = {"phone": refusal.message}
        return _login_page(request, goes_to=goes_to, phone=phone, errors=errors, refusal=refusal)
    except Refused as refusal:  # Too soon or not sent: an earlier code may still be good.
        return _login_page(
            request,
            goes_to=goes_to,
            phone=phone,
            code_step=isinstance(refusal, CodeTooSoon),
            problem=refusal.message,
            refusal=refusal,
        )
    return _login_page(
        request, goes_to=goes_to, phone=phone, sent_to=masked_phone(phone, Tier.PARTY)
    )


@bp.post("/login", name="prove_phone")
@public
async def prove_phone(request: OnlineRequest) -> HTTPResponse:
    """The code proves the phone; the person comes next."""
    services, phone, goes_to = request.app.ctx, _phone(request), _goes_to(request)
    viewer = request.ctx.viewer
    begun = viewer if viewer is not None and viewer.staff_id is None else None
    try:
        if not is_phone(phone):
            raise InvalidPhone(field="phone")
        opened = await login_with_code(
            phone=phone,
            code=_field(request, "code").strip(),
            vault=services.vault,
            now=services.clock(),
            session_id=begun.session_id if begun else None,
            # Only of a login that has begun: somebody else may sit at a citizen's browser.
            openid=begun.openid if begun and begun.person_id is None else None,
            appid=begun.appid if begun and begun.person_id is None else None,
        )
    except (WrongCode, InvalidPhone) as refusal:
        field = "code" if isinstance(refusal, WrongCode) else "phone"
        errors = {field: refusal.message}
        return _login_page(
            request,
            goes_to=goes_to,
            phone=phone,
            code_step=field == "code",
            errors=errors,
            refusal=refusal,
        )
    return _entered(request, opened, goes_to)


@bp.get("/login/person", name="person")
@public
async def person_page(request: OnlineRequest) -> HTTPResponse:
    """Last six of the identity number, for a browser whose phone is proven."""
    viewer, goes_to = request.ctx.viewer, safe_next(request.args.get("next"))
    if viewer is None or viewer.staff_id is not None:
        return redirect("/login", status=303)
    if viewer.person_id is not None:
        return redirect(goes_to, status=303)
    if not viewer.phone_is_proven:
        return redirect(_with_next("/login", goes_to), status=303)
    return render(request, "identity/person.html", next=goes_to, errors={}, problem="")


@bp.post("/login/person", name="confirm_person")
@public
async def confirm_person(request: OnlineRequest) -> HTTPResponse:
    """In, or told at the field what is wrong; too many wrong answers begin again."""
    services, viewer, goes_to = request.app.ctx, request.ctx.viewer, _goes_to(request)
    if viewer is None:
        return redirect("/login", status=303)
    try:
        opened = await choose_person(
            session_id=viewer.session_id,
            id_tail=_field(request, "id_tail"),
            vault=services.vault,
            appid=services.wechat.appid,
            now=services.clock(),
        )
    except WrongPerson as refusal:
        errors = {"id_tail": refusal.message}
        return render(
            request,
            "identity/person.html",
            status=refusal.http_status,
            next=goes_to,
            errors=errors,
            problem="",
        )
    except LoginRequired:
        return redirect(_with_next("/login", goes_to), status=303)
    except LoginDead as refusal:
        await logout(viewer.session_id)
        response = _login_page(request, goes_to=goes_to, problem=refusal.message, refusal=refusal)
        clear_session_cookie(response)
        return response
    return _entered(request, opened, goes_to)


@bp.post("/logout", name="logout")
@public
async def leave(request: OnlineRequest) -> HTTPResponse:
    """Ends the session here and now, also one that has only begun."""
    if request.ctx.viewer is not None:
        await logout(request.ctx.viewer.session_id)
    response = redirect("/", status=303)
    clear_session_cookie(response)
    return response


@bp.get("/wechat/login", name="wechat_login")
@public
async def wechat_login(request: OnlineRequest) -> HTTPResponse:
    """To WeChat's consent page; the session remembers the state that must come back.

    Somebody already logged in goes on at once and keeps the session.
    """
    services, goes_to = request.app.ctx, safe_next(request.args.get("next"))
    viewer = request.ctx.viewer
    if viewer is not None and (viewer.person_id or viewer.staff_id) is not None:
        return redirect(goes_to, status=303)
    opened, state = await begin_wechat_login(now=services.clock())
    back = _with_next(f"{services.settings.public_url}/wechat/callback", goes_to)
    response = redirect(services.wechat.authorize_url(redirect_uri=back, state=state))
    set_session_cookie(request, response, opened)
    return response


@bp.get("/wechat/callback", name="wechat_callback")
@public
async def wechat_callback(request: OnlineRequest) -> HTTPResponse:
    """Back from WeChat: in when the openid is bound, else phone and person as usual."""
    services, viewer = request.app.ctx, request.ctx.viewer
    opened = await login_with_wechat(
        session_id=viewer.session_id if viewer else None,
        code=request.args.get("code", "")[:256],
        state=request.args.get("state", "")[:256],
        wechat=services.wechat,
        vault=services.vault,
        now=services.clock(),
    )
    goes_to = safe_next(request.args.get("next"))
    must_prove = opened.needs_person and not needs_nobody(goes_to)
    response = redirect(_with_next("/login", goes_to) if must_prove else goes_to)
    set_session_cookie(request, response, opened)
    return response


@bp.post("/preferences/large-print", name="large_print")
@public
async def large_print(request: OnlineRequest) -> HTTPResponse:
    """The same pages with larger tokens, remembered by the browser for a year."""
    response = redirect(_goes_to(request), status=303)
    response.add_cookie(
        LARGE_PRINT_COOKIE,
        "1" if _field(request, "large_print") == "1" else "0",
        httponly=True,
        samesite="Lax",
        secure=request.app.ctx.settings.public_url.startswith("https:"),
        max_age=YEAR_SECONDS,
        path="/",
    )
    return response


def _entered(request: OnlineRequest, opened: OpenedSession, goes_to: str) -> HTTPResponse:
    """Next step with the rotated session."""
    address = _with_next("/login/person", goes_to) if opened.needs_person else goes_to
    response = redirect(address, status=303)
    set_session_cookie(request, response, opened)
    return response


def _login_page(
    request: OnlineRequest,
    *,
    goes_to: str,
    phone: str = "",
    sent_to: str = "",
    code_step: bool = False,
    errors: dict[str, str] | None = None,
    problem: str = "",
    refusal: Refused | None = None,
) -> HTTPResponse:
    return render(
        request,
        "identity/login.html",
        status=refusal.http_status if refusal else 200,
        next=goes_to,
        phone=phone,
        sent_to=sent_to,
        code_step=code_step,
        errors=errors or {},
        problem=problem,
        in_wechat="MicroMessenger" in request.headers.get("user-agent", ""),
        wechat_href=_with_next("/wechat/login", goes_to),
    )


def _with_next(address: str, goes_to: str) -> str:
    return address if goes_to == "/" else f"{address}?next={quote(goes_to, safe='/')}"


def _goes_to(request: OnlineRequest) -> str:
    return safe_next(_field(request, "next"))


def _phone(request: OnlineRequest) -> str:
    """As people type it: blanks and hyphens are no part of a number."""
    return _field(request, "phone").replace(" ", "").replace("-", "")[:20]


def _field(request: OnlineRequest, name: str) -> str:
    form: Any = request.form or {}
    return str(form.get(name, ""))
