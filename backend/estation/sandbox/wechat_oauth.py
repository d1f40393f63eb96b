"""WeChat's logins (official account, mini-program) and tokens: HTTP 200 always, the truth is in
errcode."""

import base64
import secrets
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sanic import Blueprint, HTTPResponse
from sanic.response import json as json_answer
from sanic.response import redirect

from estation.sandbox import world
from estation.sandbox.hub import Hub, SandboxRequest
from estation.sandbox.showing import page
from estation.sandbox.store import Row

bp = Blueprint("wechat_oauth", url_prefix="/wechat")

CODE_SECONDS = 300
TOKEN_SECONDS = 7200
_EARLY = 300
FORCED_APART_MS, FORCED_A_DAY = 30_000, 20
TOKENS_ASKED = "tokens_asked"
_FORCED_AT = "token_forced_at"
SCOPES = {"snsapi_base", "snsapi_userinfo"}
MINI = "mini_program"


@bp.get("/connect/oauth2/authorize")
async def authorize(request: SandboxRequest) -> HTTPResponse:
    """Who are you? A page of personas, or at once with `persona=`; then back with a code."""
    hub = request.app.ctx.hub
    asked = {name: request.args.get(name, "") for name in ("redirect_uri", "scope", "state")}
    trouble = _trouble(request, asked)
    if trouble:
        return page("message.html", status=400, title="无法登录", message=trouble, back="")
    chosen = world.persona(request.args.get("persona", ""))
    if chosen is None:
        return page(
            "authorize.html",
            title="微信登录",
            personas=world.PERSONAS,
            query=request.query_string,
        )
    code = new_code(hub, chosen.openid, chosen.unionid, asked["scope"])
    parts = urlsplit(asked["redirect_uri"])
    query = [*parse_qsl(parts.query), ("code", code), ("state", asked["state"])]
    return redirect(urlunsplit(parts._replace(query=urlencode(query))))


def _trouble(request: SandboxRequest, asked: dict[str, str]) -> str:
    if request.args.get("appid") != world.APPID:
        return "Scope 参数错误或没有权限：appid 不正确（10016）"
    if request.args.get("response_type") != "code" or asked["scope"] not in SCOPES:
        return "Scope 参数错误或没有 Scope 权限（10005）"
    if not asked["redirect_uri"].startswith(("http://", "https://")):
        return "redirect_uri 域名与后台配置不一致（10003）"
    if len(asked["state"]) > 128:
        return "state 过长（≤128）"
    return ""


def new_code(hub: Hub, openid: str, unionid: str, scope: str) -> str:
    """A login code, good once and for 5 minutes; `scope` also says which kind it is."""
    code = secrets.token_hex(16)
    hub.store.insert(
        "oauth_code",
        code=code,
        openid=openid,
        unionid=unionid,
        scope=scope,
        created_at=hub.now_ms(),
    )
    return code


def mini_code(hub: Hub, chosen: world.Persona) -> str:
    """What wx.login gives inside the mini-program, on this person's phone."""
    return new_code(hub, chosen.mini_openid, chosen.unionid, MINI)


@bp.get("/sns/jscode2session")
async def jscode2session(request: SandboxRequest) -> HTTPResponse:
    """A mini-program's login code becomes its openid and a session key."""
    hub = request.app.ctx.hub
    refusal = _wrong_app(hub, request.args.get("appid"), request.args.get("secret"), mini=True)
    if refusal is None and request.args.get("grant_type") != "authorization_code":
        refusal = api_error(40002, "invalid grant_type")
    row = refusal or _redeemed(hub, request.args.get("js_code", ""), mini=True)
    if isinstance(row, HTTPResponse):
        return row
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    return json_answer({"openid": row["openid"], "session_key": key, "unionid": row["unionid"]})


@bp.get("/sns/oauth2/access_token")
async def access_token(request: SandboxRequest) -> HTTPResponse:
    """A code, once and within 5 minutes, becomes an openid."""
    hub = request.app.ctx.hub
    refusal = _wrong_app(hub, request.args.get("appid"), request.args.get("secret"))
    if refusal is None and request.args.get("grant_type") != "authorization_code":
        refusal = api_error(40002, "invalid grant_type")
    if refusal is not None:
        return refusal
    row = _redeemed(hub, request.args.get("code", ""), mini=False)
    if isinstance(row, HTTPResponse):
        return row
    return json_answer(
        {
            "access_token": secrets.token_hex(48),
            "expires_in": TOKEN_SECONDS,
            "refresh_token": secrets.token_hex(48),
            "openid": row["openid"],
            "scope": row["scope"],
            "unionid": row["unionid"],
        }
    )


def _redeemed(hub: Hub, code: str, *, mini: bool) -> Row | HTTPResponse:
    """The code's row, used up now, or why not. Codes of one kind are nothing to the other."""
    now = hub.now_ms()
    row = hub.store.row("select * from oauth_code where code = ?", code)
    if not code:
        return api_error(41008, "missing code")
    if row is None or (row["scope"] == MINI) != mini:
        return api_error(40029, "invalid code")
    if row["used_at"] is not None:
        return api_error(40163, "code been used")
    if now > row["created_at"] + CODE_SECONDS * 1000:
        return api_error(42003, "code expired")
    hub.store.run("update oauth_code set used_at = ? where code = ?", now, code)
    return row


@bp.post("/cgi-bin/stable_token")
async def stable_token(request: SandboxRequest) -> HTTPResponse:
    """The same token until its last 5 minutes; then a new one while the old still holds."""
    hub = request.app.ctx.hub
    body: dict[str, Any] = request.json if isinstance(request.json, dict) else {}
    refusal = _wrong_app(hub, body.get("appid"), body.get("secret"))
    if refusal is None and body.get("grant_type") != "client_credential":
        refusal = api_error(40002, "invalid grant_type")
    if refusal is not None:
        return refusal
    fault = hub.faults.take("api", "wechat", request.path)
    if fault is not None and fault.kind == "quota":
        return api_error(45009, "reach max api daily quota limit")
    now = hub.now_ms()
    hub.store.set_setting(TOKENS_ASKED, hub.store.setting(TOKENS_ASKED, 0) + 1)
    if body.get("force_refresh") is True:
        forced = hub.store.setting(_FORCED_AT, [])
        today = [at for at in forced if at > now - 86_400_000]
        if len(today) >= FORCED_A_DAY or (today and now - today[-1] < FORCED_APART_MS):
            return api_error(45011, "api minute-quota reach limit, force_refresh")
        hub.store.set_setting(_FORCED_AT, [*today, now])
        hub.store.run("delete from account_token where kind = 'stable'")
    row = hub.store.row(
        "select * from account_token where kind = 'stable' and expires_at > ?"
        " order by expires_at desc limit 1",
        now + _EARLY * 1000,
    )
    token = row["token"] if row else _new_token(hub, now)
    expires_at = row["expires_at"] if row else now + TOKEN_SECONDS * 1000
    return json_answer({"access_token": token, "expires_in": (expires_at - now) // 1000})


@bp.get("/cgi-bin/token")
async def classic_token(request: SandboxRequest) -> HTTPResponse:
    """A new token at every asking; the one before holds for five minutes more. Independent of
    the stable one."""
    hub = request.app.ctx.hub
    refusal = _wrong_app(hub, request.args.get("appid"), request.args.get("secret"))
    if refusal is None and request.args.get("grant_type") != "client_credential":
        refusal = api_error(40002, "invalid grant_type")
    if refusal is not None:
        return refusal
    now = hub.now_ms()
    hub.store.run(
        "update account_token set expires_at = min(expires_at, ?) where kind = 'classic'",
        now + _EARLY * 1000,
    )
    return json_answer(
        {"access_token": _new_token(hub, now, kind="classic"), "expires_in": TOKEN_SECONDS}
    )


def _new_token(hub: Hub, now: int, *, kind: str = "stable") -> str:
    token = secrets.token_urlsafe(102)
    hub.store.insert(
        "account_token",
        token=token,
        kind=kind,
        created_at=now,
        expires_at=now + TOKEN_SECONDS * 1000,
    )
    return token


def _wrong_app(hub: Hub, appid: Any, secret: Any, *, mini: bool = False) -> HTTPResponse | None:
    if appid != (world.MINI_APPID if mini else world.APPID):
        return api_error(40013, "invalid appid")
    right = hub.keys.mini_secret if mini else hub.keys.app_secret
    if not isinstance(secret, str) or not secrets.compare_digest(secret.encode(), right.encode()):
        return api_error(40125, "invalid appsecret")
    return None


def token_trouble(hub: Hub, token: str) -> HTTPResponse | None:
    """What is wrong with an API token; None when it holds."""
    if not token:
        return api_error(41001, "access_token missing")
    row = hub.store.row("select * from account_token where token = ?", token)
    if row is None:
        return api_error(40001, "invalid credential, access_token is invalid or not latest")
    if row["expires_at"] <= hub.now_ms():
        return api_error(42001, "access_token expired")
    return None


def api_error(code: int, message: str) -> HTTPResponse:
    return json_answer({"errcode": code, "errmsg": f"{message}, rid: sandbox"})
