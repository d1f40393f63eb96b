"""Who may ask how often and how much: one table for every route of the online program.

A citizen has fingers and a program of theirs may ask each second; an address may be a family, a
whole hall's Wi-Fi or the mobile operator's exit that all of WeChat comes through. The first bound
is for one person, the second for a flood. Whoever is not logged in has the second only.
"""

import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Final, NamedTuple
from uuid import UUID

from sanic import Request, Sanic
from sanic.config import Config

from estation.identity.api import Viewer, address_key, address_of
from estation.services import OnlineRequest
from estation.shared.bodies import MAX_JSON_BYTES
from estation.shared.errors import TooManyRequests


class Allowance(NamedTuple):
    """Askings in a sliding minute. `viewer`: of one person or officer, over all sessions."""

    viewer: int
    address: int


ALLOWANCES: Final[Mapping[str, Allowance]] = {
    "order": Allowance(viewer=60, address=1200),
    "attempt": Allowance(viewer=60, address=1200),  # each asks a channel
    "cancel": Allowance(viewer=60, address=1200),  # each asks a channel
    "look": Allowance(viewer=600, address=6000),  # an open page asks every three seconds
    "receipt": Allowance(viewer=60, address=1200),  # each draws a PDF
    "verify": Allowance(viewer=30, address=300),  # nobody checks more papers in a minute
    "login": Allowance(viewer=60, address=600),  # beside identity's own counts of guesses
    "preference": Allowance(viewer=60, address=600),
    "home": Allowance(viewer=120, address=3000),  # also the way back from every refusal
    "page": Allowance(viewer=120, address=3000),  # two a second is faster than anybody reads
    "heads": Allowance(viewer=60, address=300),  # new once a day; programs fetch them
    "staff": Allowance(viewer=120, address=1200),
    "desk": Allowance(viewer=240, address=2400),  # an officer turns pages all day
    "download": Allowance(viewer=60, address=300),  # each makes a file of thousands of rows
    "machine": Allowance(viewer=120, address=120),  # a scrape or a client's build, not a person
    "unknown": Allowance(viewer=120, address=600),  # addresses we do not have
}

GROUPS: Final[Mapping[tuple[str, str], str]] = {
    ("POST", "/api/orders"): "order",
    ("POST", "/fees/<bill_id:uuid>/pay"): "order",
    ("POST", "/fees/pay"): "order",
    ("POST", "/api/orders/<order_id:uuid>/attempts"): "attempt",
    ("POST", "/pay/<order_id:uuid>/attempts"): "attempt",
    ("POST", "/c/<code:str>/attempts"): "attempt",
    ("POST", "/api/orders/<order_id:uuid>/cancel"): "cancel",
    ("POST", "/pay/<order_id:uuid>/cancel"): "cancel",
    ("POST", "/c/<code:str>/cancel"): "cancel",
    ("GET", "/api/orders/<order_id:uuid>"): "look",
    ("GET", "/api/orders/<order_id:uuid>/refunds"): "look",
    ("GET", "/api/bills"): "look",
    ("GET", "/api/bills/<bill_id:uuid>"): "look",
    ("GET", "/pay/<order_id:uuid>"): "look",
    ("GET", "/pay/<order_id:uuid>/status"): "look",
    ("GET", "/pay/<order_id:uuid>/qr.svg"): "look",
    ("GET", "/pay/return/alipay"): "look",
    ("GET", "/c/<code:str>"): "look",
    ("GET", "/c/<code:str>/status"): "look",
    ("GET", "/c/<code:str>/qr.svg"): "look",
    ("GET", "/receipts/<order_id:uuid>"): "receipt",
    ("GET", "/receipts/<order_id:uuid>/<file_name:str>"): "receipt",
    ("GET", "/verify"): "verify",
    ("POST", "/verify"): "verify",
    ("GET", "/"): "home",
    ("GET", "/fees"): "page",
    ("GET", "/fees/history"): "page",
    ("GET", "/fees/<bill_id:uuid>"): "page",
    ("GET", "/fees/<bill_id:uuid>/code"): "page",
    ("GET", "/cases"): "page",
    ("GET", "/cases/<case_id:uuid>"): "page",
    ("GET", "/login"): "page",
    ("GET", "/login/person"): "page",
    ("GET", "/staff/login"): "page",
    ("GET", "/ledger/heads"): "heads",
    ("GET", "/metrics"): "machine",
    ("GET", "/wechat/messages"): "machine",  # WeChat asks once whether the address is ours
    ("GET", "/openapi.json"): "machine",
    ("POST", "/api/login"): "login",
    ("POST", "/api/login/code"): "login",
    ("POST", "/api/login/person"): "login",
    ("POST", "/api/wechat/mini-login"): "login",
    ("POST", "/login"): "login",
    ("POST", "/login/code"): "login",
    ("POST", "/login/person"): "login",
    ("GET", "/wechat/login"): "login",
    ("GET", "/wechat/callback"): "login",
    ("POST", "/staff/login"): "login",
    ("POST", "/preferences/large-print"): "preference",
    ("POST", "/staff/gate/<name:str>/release"): "staff",
    ("POST", "/staff/gate/<name:str>/resume"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/take"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/ask-channel"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/refund"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/redirect"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/redirect/approve"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/redirect/reject"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/outside"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/outside/approve"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/outside/reject"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/by-hand"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/by-hand/approve"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/by-hand/reject"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/claim"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/claim/approve"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/claim/reject"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/apply"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/apply/approve"): "staff",
    ("POST", "/staff/incidents/<incident_id:uuid>/apply/reject"): "staff",
    ("POST", "/staff/refunds/new"): "staff",
    ("POST", "/staff/refunds/<request_id:uuid>/approve"): "staff",
    ("POST", "/staff/refunds/<request_id:uuid>/reject"): "staff",
    ("POST", "/staff/reconciliation"): "staff",
    ("POST", "/staff/splits"): "staff",
    ("GET", "/staff"): "desk",
    ("GET", "/staff/gate"): "desk",
    ("GET", "/staff/incidents"): "desk",
    ("GET", "/staff/incidents/<incident_id:uuid>"): "desk",
    ("GET", "/staff/reconciliation"): "desk",
    ("GET", "/staff/reconciliation/<day:ymd>"): "desk",
    ("GET", "/staff/refunds"): "desk",
    ("GET", "/staff/refunds/new"): "desk",
    ("GET", "/staff/refunds/<request_id:uuid>"): "desk",
    ("GET", "/staff/splits"): "desk",
    ("GET", "/staff/incidents.csv"): "download",
    ("GET", "/staff/reconciliation/<day:ymd>/bills/<file_id:uuid>"): "download",
    ("GET", "/staff/reconciliation/<day:ymd>/differences.csv"): "download",
    ("GET", "/staff/splits/<file_name:str>"): "download",
}
"""Method and address of a route -> its group in ALLOWANCES."""

WITHOUT_LIMIT: Final[Mapping[tuple[str, str], str]] = {
    ("POST", "/logout"): "leaving must always work, and costs one delete by key",
    ("POST", "/staff/logout"): "leaving must always work, and costs one delete by key",
    ("GET", "/healthz"): "the balancer must never hear no from a sound program; one `select 1`",
    ("GET", "/static/<__file_uri__:path>"): "files of the build, which browsers keep for ever",
    ("HEAD", "/static/<__file_uri__:path>"): "files of the build, which browsers keep for ever",
    ("POST", "/notices/wechat-pay/<account:str>"): "FloodBound bounds what is not believed",
    ("POST", "/notices/wechat-combine/<account:str>"): "FloodBound bounds what is not believed",
    ("POST", "/notices/alipay/<account:str>"): "FloodBound bounds what is not believed",
    ("POST", "/wechat/messages"): "FloodBound bounds what is not believed",
}

NOTICE_BODY_BYTES: Final = 128 * 1024  # above the door's own limit, which answers in its words
FORM_BODY_BYTES: Final = 16 * 1024


class BoundedRequest(Request[Sanic[Config, SimpleNamespace], SimpleNamespace]):
    """A request that stops reading a body at its route's limit (413)."""

    async def receive_body(self) -> None:
        if self.stream is not None:
            self.stream.request_max_size = body_limit(self.path)
        await super().receive_body()  # type: ignore[no-untyped-call]


def body_limit(path: str) -> int:
    """Bytes a body sent to this address may have."""
    if path.startswith("/notices/"):
        return NOTICE_BODY_BYTES
    return MAX_JSON_BYTES if path.startswith("/api/") else FORM_BODY_BYTES


async def limit_address(request: OnlineRequest) -> None:
    """Request middleware, before anybody is looked up. Raises TooManyRequests."""
    group = group_of(request)
    if group is not None:
        sender = address_key(address_of(request))
        await _take(request, f"{group}:from:{sender}", ALLOWANCES[group].address)


async def limit_viewer(request: OnlineRequest) -> None:
    """Request middleware, after `attach_viewer`. Raises TooManyRequests."""
    group, viewer = group_of(request), request.ctx.viewer
    if group is not None and viewer is not None:
        await _take(request, f"{group}:by:{_who(viewer)}", ALLOWANCES[group].viewer)


def group_of(request: OnlineRequest) -> str | None:
    """The route's group; None for the few of WITHOUT_LIMIT."""
    if request.route is None:
        return "unknown"
    return _group(request.method, request.route.path)


@functools.lru_cache(maxsize=1024)
def _group(method: str, route: str) -> str | None:
    return GROUPS.get((method, "/" + route.strip("/")))


def _who(viewer: Viewer) -> UUID:
    """The person, not the session: logging in again buys nothing."""
    return viewer.person_id or viewer.staff_id or viewer.session_id


async def _take(request: OnlineRequest, key: str, limit: int) -> None:
    services = request.app.ctx
    wait = await services.limiter.take(key, limit, now=services.clock())
    if wait:
        raise TooManyRequests(retry_after_seconds=wait)
