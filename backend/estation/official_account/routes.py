"""The official account's message door.

WeChat waits five seconds and comes twice more; one short statement answers well within.
"""

import structlog
from prometheus_client import Counter
from sanic import Blueprint, HTTPResponse
from sanic.response import raw

from estation.identity.api import address_key, address_of, public
from estation.official_account.actions import hear
from estation.outside.wechat.messages import NOTHING, MessageDoor, MessageRejected
from estation.services import OnlineRequest
from estation.shared.errors import NotFound

log = structlog.get_logger()

bp = Blueprint("official_account")

REFUSED = Counter("estation_wechat_messages_refused", "Messages we did not believe", ["reason"])
_TEXT, _XML = "text/plain; charset=utf-8", "text/xml; charset=utf-8"


@bp.get("/wechat/messages")
@public
async def echo(request: OnlineRequest) -> HTTPResponse:
    """WeChat asks, once, whether this address is ours."""
    try:
        said = _door(request).echo(_query(request), now=request.app.ctx.clock())
    except MessageRejected as rejected:
        return _refused(request, rejected)
    return raw(said, content_type=_TEXT)


@bp.post("/wechat/messages")
@public
async def message(request: OnlineRequest) -> HTTPResponse:
    """A message or an event: believed, heard once, answered at once."""
    services, door = request.app.ctx, _door(request)
    now, sender = services.clock(), address_key(address_of(request))
    if services.unbelieved.is_flooding(sender, now=now):
        REFUSED.labels("flood").inc()
        return raw(b"", status=429)
    try:
        heard = door.open(_query(request), request.body, now=now)
    except MessageRejected as rejected:
        return _refused(request, rejected)
    services.unbelieved.note_believed(sender, now=now)
    words = await hear(heard, settings=services.settings, vault=services.vault, now=now)
    if not words:
        return raw(NOTHING, content_type=_TEXT)
    return raw(door.answer(heard, words, now=now), content_type=_XML)


def _door(request: OnlineRequest) -> MessageDoor:
    """Raises NotFound where the city takes no messages."""
    door = request.app.ctx.message_door
    if door is None:
        raise NotFound
    return door


def _query(request: OnlineRequest) -> dict[str, str]:
    return {name: str(values[0]) for name, values in request.args.items()}


def _refused(request: OnlineRequest, rejected: MessageRejected) -> HTTPResponse:
    services = request.app.ctx
    services.unbelieved.note_refused(address_key(address_of(request)), now=services.clock())
    REFUSED.labels(rejected.reason).inc()
    log.warning("wechat_message_refused", reason=rejected.reason)
    return raw(b"", status=403)
