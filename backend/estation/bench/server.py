"""The programs that are measured: `python -m estation.bench.server KIND WORKERS`.

bare: an answer of the right size. verify: our channel client opens the notice (signature, age,
decryption, addressee, money; who paid sealed) and nothing is kept. full: the online program itself.
"""

import sys
from typing import Any

import aiohttp
from sanic import HTTPResponse, Request, Sanic
from sanic.response import raw

from estation import app as online
from estation import watchdog
from estation.outside.pay_channels import NoticeRejected, PayChannel
from estation.outside.pay_channels.building import channels_from_settings
from estation.settings import Settings
from estation.shared import logs
from estation.shared.clock import system_clock
from estation.shared.collecting import calm_the_collector
from estation.shared.crypto import Vault
from estation.shared.key_files import KeyFiles

KINDS = ("bare", "verify", "full")


def create_floor(kind: str, settings: Settings) -> Sanic[Any, Any]:
    """A program that does only the part below ours."""
    app: Sanic[Any, Any] = Sanic(f"bench-{kind}", configure_logging=False)
    app.config.ACCESS_LOG = False

    async def open_channels(app: Sanic[Any, Any]) -> None:
        app.ctx.session = aiohttp.ClientSession()
        app.ctx.channels = channels_from_settings(
            app.ctx.session,
            settings,
            system_clock,
            Vault.watching(KeyFiles.of(settings), settings.data_key_file),
        )
        calm_the_collector()  # as in the online program, so that the comparison is fair

    async def close_channels(app: Sanic[Any, Any]) -> None:
        await app.ctx.session.close()

    app.register_listener(open_channels, "before_server_start")
    app.register_listener(close_channels, "after_server_stop")
    handler = _bare if kind == "bare" else _verify
    app.add_route(handler, "/notices/wechat-pay/<account>", methods=["POST"])
    return app


async def _bare(request: Request[Any, Any], account: str) -> HTTPResponse:
    channel: PayChannel = request.app.ctx.channels[f"wechat_pay:{account}"]
    answer = channel.notice_answer(accepted=True)
    return raw(answer.body, status=answer.status, content_type=answer.content_type)


async def _verify(request: Request[Any, Any], account: str) -> HTTPResponse:
    channel: PayChannel = request.app.ctx.channels[f"wechat_pay:{account}"]
    try:
        channel.open_notice(dict(request.headers.items()), request.body, now=system_clock())
    except NoticeRejected as rejected:
        refusal = channel.notice_answer(accepted=False, status=rejected.status)
        return raw(refusal.body, status=refusal.status, content_type=refusal.content_type)
    answer = channel.notice_answer(accepted=True)
    return raw(answer.body, status=answer.status, content_type=answer.content_type)


def main() -> None:
    kind, workers = sys.argv[1], int(sys.argv[2])
    settings = Settings.read()
    logs.configure(as_json=True)

    def factory() -> Sanic[Any, Any]:
        if kind == "full":
            return online.create_app(name="bench-full", settings=settings)
        return create_floor(kind, settings)

    watchdog.serve(factory, host=settings.host, port=settings.port, workers=workers)


if __name__ == "__main__":
    main()
