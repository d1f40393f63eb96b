"""Our channels, built from the real settings, talking to a running sandbox."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from aiohttp import web

from estation.outside.pay_channels import (
    Channel,
    NoticeRejected,
    PayChannel,
    PaymentRequest,
    PayTicket,
    Scene,
    VerifiedNotice,
)
from estation.outside.pay_channels.building import channels_from_settings
from estation.outside.sms import HttpSms
from estation.outside.wechat.web_login import WebLogin
from estation.sandbox.credentials import export_secrets
from estation.settings import Settings
from estation.shared import ids
from estation.shared.clock import system_clock
from estation.shared.key_files import KeyFiles
from tests.outside.counterparts import VAULT
from tests.outside.listening import Heard, Listener, calling, listening
from tests.sandbox.running import RunningSandbox, running_sandbox

OPENID = "oSandbox-LinXiaozhou00000001"


@dataclass
class City:
    """`accepted` and `rejected` are what our door said to the notices that came."""

    sandbox: RunningSandbox
    channels: dict[Channel, PayChannel]
    there: Listener
    settings: Settings
    login: WebLogin
    sms: HttpSms
    accepted: list[VerifiedNotice] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def request(self, channel: Channel, *, amount_fen: int = 817524) -> PaymentRequest:
        now = datetime.now(UTC)
        return PaymentRequest(
            out_trade_no=ids.trade_number(now),
            amount_fen=amount_fen,
            description="契税、登记费（江城区一号）",
            expires_at=now + timedelta(minutes=15),
            notify_url=f"{self.there.base_url}/notices/{channel}",
            return_url="http://127.0.0.1:8000/pay/return/alipay",
            payer_openid=OPENID,
            payer_ip="127.0.0.1",
        )

    async def open(
        self, channel: Channel, scene: Scene, *, amount_fen: int = 817524
    ) -> tuple[str, str]:
        """out_trade_no and the code that the payer's wallet reads."""
        request = self.request(channel, amount_fen=amount_fen)
        ticket = await self.channels[channel].open_payment(scene, request)
        return request.out_trade_no, code_of(ticket)

    async def take(self, heard: Heard) -> web.Response:
        """The notice door: verify, answer as the channel wants it."""
        channel = self.channels[Channel(heard.target.rpartition("/")[2])]
        try:
            notice = channel.open_notice(heard.headers, heard.body, now=system_clock())
        except NoticeRejected as rejected:
            self.rejected.append(rejected.reason)
            answer = channel.notice_answer(accepted=False, status=rejected.status)
        else:
            self.accepted.append(notice)
            answer = channel.notice_answer(accepted=True)
        return web.Response(
            status=answer.status, body=answer.body, content_type=answer.content_type
        )

    async def news(self, *, at_least: int) -> list[VerifiedNotice]:
        """Waits up to ten seconds for so many accepted notices."""
        for _ in range(500):
            if len(self.accepted) >= at_least:
                return self.accepted
            await asyncio.sleep(0.02)
        raise AssertionError(f"{len(self.accepted)} accepted, {self.rejected} rejected")


def code_of(ticket: PayTicket) -> str:
    if ticket.jsapi_parameters is not None:
        return ticket.jsapi_parameters["package"].removeprefix("prepay_id=")
    code = ticket.qr_content or ticket.redirect_url
    assert code is not None
    return code


@asynccontextmanager
async def running_city(folder: Path) -> AsyncIterator[City]:
    async with running_sandbox(folder) as sandbox, listening() as there, calling() as session:
        export_secrets(sandbox.data, folder / "secrets")
        settings = settings_for(sandbox.base_url, folder / "secrets")
        city = City(
            sandbox=sandbox,
            channels=by_channel(session, settings),
            there=there,
            settings=settings,
            login=WebLogin.from_settings(session, settings.wechat, KeyFiles.of(settings)),
            sms=HttpSms(session, settings.sms_url),
        )
        there.say(city.take)
        yield city


def by_channel(session: aiohttp.ClientSession, settings: Settings) -> dict[Channel, PayChannel]:
    """The city's collecting accounts."""
    channels = channels_from_settings(session, settings, system_clock, VAULT)
    collecting = [channels[account_id] for account_id in settings.collecting_accounts.values()]
    return {channel.channel: channel for channel in collecting}


def settings_for(base_url: str, secrets_dir: Path) -> Settings:
    """config/local.toml with this sandbox's address."""
    local = Settings(secrets_dir=secrets_dir)
    there = local.wechat_pay[0].base_url.removesuffix("/wechat-pay")
    moved = local.model_dump_json().replace(there, base_url)
    return Settings.model_validate_json(moved)
