"""Logging in as JSON, for the mini-program and for programs.

Every answer that opens a session sets the cookie and names the token: whoever sends it as
`Authorization: Bearer` needs no form token.
"""

from typing import Annotated

import msgspec
from sanic import Blueprint, HTTPResponse

from estation.identity.actions.sessions import OpenedSession
from estation.identity.api import (
    Viewer,
    address_of,
    choose_person,
    login_with_code,
    login_with_mini_program,
    public,
    send_login_code,
    set_session_cookie,
)
from estation.identity.errors import (
    CodeNotSent,
    CodeTooSoon,
    InvalidPhone,
    LoginDead,
    LoginRequired,
    PersonTriesUsedUp,
    WechatLoginFailed,
    WrongCode,
    WrongPerson,
)
from estation.services import OnlineRequest
from estation.shared.bodies import json_body
from estation.shared.openapi import described
from estation.shared.replies import json_reply

login_bp = Blueprint("identity_api", url_prefix="/api/login")
wechat_bp = Blueprint("identity_wechat_api", url_prefix="/api/wechat")
bp = Blueprint.group(login_bp, wechat_bp)


class PhoneBody(msgspec.Struct, forbid_unknown_fields=True):
    phone: str


class MiniLoginBody(msgspec.Struct, forbid_unknown_fields=True):
    code: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class CodeBody(msgspec.Struct, forbid_unknown_fields=True):
    phone: str
    code: str


class PersonBody(msgspec.Struct, forbid_unknown_fields=True):
    id_tail: str


class SentAnswer(msgspec.Struct):
    sent: bool


class OpenedAnswer(msgspec.Struct):
    """`needs_person`: the phone is proven, the person is confirmed next."""

    token: str
    csrf_token: str
    needs_person: bool


@login_bp.post("/code")
@public
@described(
    body=PhoneBody,
    answers={200: SentAnswer},
    refuses=(InvalidPhone, CodeTooSoon, CodeNotSent),
)
async def code(request: OnlineRequest) -> HTTPResponse:
    """{"phone"} -> {"sent": true}, whether we know the phone or not."""
    services = request.app.ctx
    await send_login_code(
        phone=json_body(request, PhoneBody).phone,
        address=address_of(request),
        vault=services.vault,
        sms=services.sms,
        now=services.clock(),
    )
    return json_reply({"sent": True})


@login_bp.post("/")
@public
@described(body=CodeBody, answers={200: OpenedAnswer}, refuses=(WrongCode,))
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
        appid=begun.appid if begun and begun.person_id is None else None,
    )
    return _opened(request, opened)


@login_bp.post("/person")
@public
@described(
    body=PersonBody,
    answers={200: OpenedAnswer},
    refuses=(LoginRequired, WrongPerson, LoginDead, PersonTriesUsedUp),
)
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


@wechat_bp.post("/mini-login")
@public
@described(body=MiniLoginBody, answers={200: OpenedAnswer}, refuses=(WechatLoginFailed,))
async def mini_login(request: OnlineRequest) -> HTTPResponse:
    """{"code"} of wx.login -> {"token", "csrf_token", "needs_person"}.

    With `needs_person` phone and person follow by /api/login, under this token.
    """
    body, services, viewer = json_body(request, MiniLoginBody), request.app.ctx, request.ctx.viewer
    opened = await login_with_mini_program(
        # Only a login that has begun: another citizen's session is not ours to end.
        session_id=viewer.session_id if viewer and _has_only_begun(viewer) else None,
        code=body.code,
        mini_program=services.mini_program,
        vault=services.vault,
        now=services.clock(),
    )
    return _opened(request, opened)


def _has_only_begun(viewer: Viewer) -> bool:
    return viewer.person_id is None and viewer.staff_id is None


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
