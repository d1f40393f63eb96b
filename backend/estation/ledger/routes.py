"""The published heads, for everybody who wants to keep a copy."""

from sanic import Blueprint, HTTPResponse

from estation.identity.api import public
from estation.ledger import queries
from estation.ledger.actions.publishing import as_dict
from estation.outside.gate.keys import each_pem
from estation.services import OnlineRequest
from estation.shared.pages import render, wants_page
from estation.shared.replies import json_reply

bp = Blueprint("ledger_routes")

SHOWN = 400


@bp.get("/ledger/heads")
@public
async def heads(request: OnlineRequest) -> HTTPResponse:
    """The newest heads and the keys to check them: a page for people, JSON for programs."""
    settings = request.app.ctx.settings
    found = await queries.published_heads(limit=SHOWN)
    files = [settings.secret(name) for name in settings.ledger_public_key_files]
    keys = [pem.decode() for file in files for pem in each_pem(file)]
    if wants_page(request):
        return render(request, "ledger/heads.html", heads=found, keys=keys)
    return json_reply({"heads": [as_dict(head) for head in found], "public_keys": keys})
