"""Logging in as JSON, for the mini-program and for programs.

Every answer that opens a session sets the cookie and names the token: whoever sends it as
`Authorization: Bearer` needs no form token.
"""

import msgspec
from sanic import Blueprint, HTTPResponse

from estation.identity.actions.sessions import OpenedSession
from estation.identity.api import (
    choose_person,
    login_with_code,
    public,
    send_login_code,
    set_session_cookie,
)
from estation.identity.errors import LoginRequired
from estation.services import OnlineRequest
from estation.shared.bodies import json_body
from estation.shared.replies import json_reply

bp = Blueprint("identity_api", url_prefix="/api/login")


class PhoneBody(msgspec.Struct, forbid_unknown_fields=True):
    phone: str


class CodeBody(msgspec.Struct, forbid_unknown_fields=True):
    phone: str
    code: str


class PersonBody(msgspec.Struct, forbid_unknown_fields=True):
    id_tail: str


@bp.post("/code")
@public
async def code(request: OnlineRequest) -> HTTPResponse:
    """{"phone"} -> {"sent": true}, whether we know the phone or not."""
    services = request.app.ctx
    await send_login_code(
        phone=json_body(request, PhoneBody).phone,
        address=request.remote_addr or request.ip,
        vault=services.vault,
        sms=services.sms,
        now=services.clock(),
    )
    return json_reply({"sent": True})


@bp.post("/")
@public
async def login(request: OnlineRequest) -> HTTPResponse:
    """{"phone","code"} -> {"token", "csrf_token", "needs_person"}."""
    body, services, viewer = json_body(request, CodeBody), request.app.ctx, request.ctx.viewer
    begun = viewer if viewer is not None and viewer.staff_id is None else None
    opened = await login_with_code(
        phone=body.phone,
        code=body.code,
        vault=services.vault,
        now=services.clock(),
        session_id=begun.session_id if begun else None,
        # Only of a login that has begun: somebody else may sit at a citizen's browser.
        openid=begun.openid if begun and begun.person_id is None else None,
    )
    return _opened(request, opened)


@bp.post("/person")
@public
async def person(request: OnlineRequest) -> HTTPResponse:
    """{"id_tail"} with the token of the step before -> a new token of the confirmed person."""
    viewer, services = request.ctx.viewer, request.app.ctx
    if viewer is None:
        raise LoginRequired
    opened = await choose_person(
        session_id=viewer.session_id,
        id_tail=json_body(request, PersonBody).id_tail,
        vault=services.vault,
        appid=services.wechat.appid,
        now=services.clock(),
    )
    return _opened(request, opened)


def _opened(request: OnlineRequest, opened: OpenedSession) -> HTTPResponse:
    response = json_reply(
        {
            "token": opened.token,
            "csrf_token": opened.csrf_token,
            "needs_person": opened.needs_person,
        }
    )
    set_session_cookie(request, response, opened)
    return response
