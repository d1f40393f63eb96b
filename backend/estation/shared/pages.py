"""Renders h5/templates from plain values, with the headers every page needs."""

import functools
import json
import secrets
from datetime import date, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from sanic import HTTPResponse, Request
from sanic.response import html

from estation.shared.clock import BEIJING
from estation.shared.money import display_yuan

H5 = Path(__file__).resolve().parents[3] / "h5"
LARGE_PRINT_COOKIE = "large_print"


def wants_page(request: Request[Any, Any]) -> bool:
    """True for a browser navigation; programs ask for JSON or nothing in particular."""
    return "text/html" in request.headers.get("accept", "")


def render(
    request: Request[Any, Any], template: str, *, status: int = 200, **values: Any
) -> HTTPResponse:
    """A page. Every template also sees `request_path`, `large_print`, `nonce`, `csrf_token`,
    `viewer`, `may_open`, `city_name` and `bureau_name`.
    """
    nonce = secrets.token_urlsafe(12)
    settings = getattr(request.app.ctx, "settings", None)
    body = (
        environment()
        .get_template(template)
        .render(
            request_path=request.path,
            large_print=request.cookies.get(LARGE_PRINT_COOKIE) == "1",
            nonce=nonce,
            csrf_token=getattr(request.ctx, "csrf_token", ""),
            viewer=getattr(request.ctx, "viewer", None),
            may_open=functools.partial(may_open, request),
            city_name=getattr(settings, "city_name", ""),
            bureau_name=getattr(settings, "bureau_name", ""),
            **values,
        )
    )
    return html(body, status=status, headers=page_headers(nonce))


def may_open(request: Request[Any, Any], address: str) -> bool:
    """Whether the guard of this page lets the viewer's role in: what the navigation may offer.

    Read from the routes themselves, so that a link and its guard cannot differ.
    """
    viewer = getattr(request.ctx, "viewer", None)
    for route in request.app.router.routes:
        if "/" + route.path.strip("/") == address and "GET" in route.methods:
            roles: frozenset[str] = getattr(route.handler, "roles", frozenset())
            return not roles or getattr(viewer, "role", None) in roles
    return False


def page_headers(nonce: str) -> dict[str, str]:
    """Strict CSP: no inline script or style without the nonce, no foreign host."""
    return {
        "content-security-policy": (
            f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' "
            f"'nonce-{nonce}'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "x-content-type-options": "nosniff",
        # Our addresses may hold a code and are nobody's business, not even of our own proxy's
        # log; but WeChat's H5 page wants to see which domain sent the payer.
        "referrer-policy": "strict-origin",
        "cache-control": "no-store",
    }


@functools.cache
def environment() -> Environment:
    """The template environment: autoescaped, undefined names are errors."""
    made = Environment(
        loader=FileSystemLoader(H5 / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["yuan"] = display_yuan
    made.filters["moment"] = _moment
    made.filters["clock"] = _clock
    made.filters["day"] = _day
    made.globals["asset"] = asset
    return made


def asset(name: str) -> str:
    """The built file's address for a source name such as "src/main.ts" (vite's manifest)."""
    return f"/static/{_manifest()[name]['file']}"


@functools.cache
def _manifest() -> dict[str, dict[str, Any]]:
    manifest: dict[str, dict[str, Any]] = json.loads(
        (H5 / "dist" / ".vite" / "manifest.json").read_text(encoding="utf-8")
    )
    return manifest


def _moment(value: datetime | None) -> str:
    return value.astimezone(BEIJING).strftime("%Y-%m-%d %H:%M") if value else "—"


def _clock(value: datetime) -> str:
    return value.astimezone(BEIJING).strftime("%H:%M")


def _day(value: date) -> str:
    return f"{value.year}年{value.month}月{value.day}日"
