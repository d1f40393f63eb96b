"""Alipay's certificate mode, and keys that are replaced while the program runs."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web
from pydantic import ValidationError

from estation.outside.pay_channels import (
    ChannelState,
    ChannelUnknown,
    NoticeRejected,
    PaymentRequest,
    Scene,
    VerifiedNotice,
    alipay,
)
from estation.outside.pay_channels.alipay import Alipay
from estation.outside.pay_channels.alipay.keys import own_with_certificate, public_keys
from estation.settings import AlipayAccount
from estation.shared.key_files import OVERLAP_SECONDS, KeyFiles
from tests.outside.alipay_certificates import (
    CERTIFICATE_APP_ID,
    ISSUER,
    MERCHANT,
    alipays,
    certificate,
    certificate_channel,
    certified_answer,
    download_answer,
    issuer,
    pem,
    root,
    secrets,
    sn,
    write_all,
)
from tests.outside.counterparts import (
    APP_ID,
    NOW,
    SELLER_ID,
    VAULT,
    _no_session,
    alipay_answer,
    alipay_form,
    alipay_notice,
    private_pem,
    public_pem,
    verify,
)
from tests.outside.listening import Heard, Listener, calling, listening

NUMBER = "20260301ABCDEFGHJKMNPQRS"
QUERY = "alipay.trade.query"
DOWNLOAD = "alipay.open.app.alipaycert.download"
PAID = {
    "code": "10000",
    "msg": "Success",
    "out_trade_no": NUMBER,
    "trade_no": "2026030122001400010500000001",
    "trade_status": "TRADE_SUCCESS",
    "total_amount": "8175.24",
    "send_pay_date": "2026-03-01 09:59:58",
}


@dataclass
class Desk:
    """Answers queries signed by `signer`, and downloads with `chain`."""

    there: Listener
    channel: Alipay
    now: datetime = NOW
    signer: str = "next"
    serial: str | None = None
    chain: bytes = b""
    wait: asyncio.Event = field(default_factory=asyncio.Event)

    async def reply(self, heard: Heard) -> web.Response:
        method = dict(parse_qsl(urlsplit(heard.target).query))["method"]
        if method == DOWNLOAD:
            await self.wait.wait()
            return web.Response(body=download_answer(self.chain))
        answer = certified_answer(method, PAID, signer=self.signer, serial=self.serial)
        return web.Response(body=answer)

    def downloads(self) -> list[str]:
        """The numbers of the certificates asked for."""
        bodies = [dict(parse_qsl(one.body.decode())) for one in self.there.heard]
        return [body["biz_content"] for body in bodies if "alipay_cert_sn" in body["biz_content"]]

    def notice(self, signer: str = "next", **changes: str) -> VerifiedNotice:
        fields = alipay_notice(app_id=CERTIFICATE_APP_ID)
        headers, body = alipay_form(fields, signer=signer)
        number = changes.get("serial", sn(alipays(signer)))
        return self.channel.open_notice(
            headers, body + b"&alipay_cert_sn=" + number.encode(), now=self.now
        )

    def refusal(self, signer: str = "next", **changes: str) -> str:
        with pytest.raises(NoticeRejected) as rejected:
            self.notice(signer, **changes)
        return rejected.value.reason


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with listening() as there, calling() as session:
        url = f"{there.base_url}/gateway.do"
        desk = Desk(there, certificate_channel(session, url, clock=lambda: desk.now))
        desk.chain = pem(alipays("next"), issuer())
        desk.wait.set()
        there.say(desk.reply)
        yield desk


async def settled(desk: Desk, count: int) -> None:
    """Waits until so many downloads were asked and answered."""
    for _ in range(200):
        if len(desk.downloads()) >= count:
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


async def test_requests_name_our_certificate_and_the_roots(desk: Desk) -> None:
    desk.signer = "alipay"

    report = await desk.channel.query(NUMBER)

    assert report.state is ChannelState.PAID
    (heard,) = desk.there.heard
    parameters = {
        **dict(parse_qsl(urlsplit(heard.target).query)),
        **dict(parse_qsl(heard.body.decode())),
    }
    assert parameters["app_cert_sn"] == sn(certificate("merchant", MERCHANT))
    assert parameters["alipay_root_cert_sn"] == sn(root())
    message = "&".join(f"{k}={v}" for k, v in sorted(parameters.items()) if k != "sign")
    verify("merchant", message.encode(), parameters["sign"])


async def test_addresses_for_the_browser_name_them_too(desk: Desk) -> None:
    request = PaymentRequest(NUMBER, 1, "登记费", NOW, "https://e.example.cn/n")

    for scene in (Scene.WAP, Scene.PAGE):
        ticket = await desk.channel.open_payment(scene, request)
        query = dict(parse_qsl(urlsplit(str(ticket.redirect_url)).query))
        assert query["app_cert_sn"] == sn(certificate("merchant", MERCHANT))


async def test_the_number_beside_an_answer_chooses_the_key(desk: Desk) -> None:
    desk.signer, desk.serial = "next", sn(alipays())

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.query(NUMBER)

    assert raised.value.code == "UNVERIFIED"
    assert desk.downloads() == []


async def test_an_answer_without_a_number_is_checked_with_what_is_known(desk: Desk) -> None:
    desk.there.say(web.Response(body=alipay_answer(QUERY, PAID)))
    assert (await desk.channel.query(NUMBER)).state is ChannelState.PAID

    desk.there.say(web.Response(body=alipay_answer(QUERY, PAID, signer="stranger")))
    with pytest.raises(ChannelUnknown):
        await desk.channel.query(NUMBER)


async def test_an_unknown_certificate_is_downloaded_once_and_then_believed(desk: Desk) -> None:
    reports = await asyncio.gather(*(desk.channel.query(NUMBER) for _ in range(20)))

    assert {report.state for report in reports} == {ChannelState.PAID}
    assert desk.downloads() == [f'{{"alipay_cert_sn":"{sn(alipays("next"))}"}}']
    assert desk.notice().report is not None
    desk.signer = "alipay"
    assert (await desk.channel.query(NUMBER)).state is ChannelState.PAID


async def test_a_notice_with_an_unknown_certificate_is_believed_when_it_comes_again(
    desk: Desk,
) -> None:
    assert desk.refusal() == "unknown_serial"

    await settled(desk, 1)

    assert desk.notice().report is not None
    assert len(desk.downloads()) == 1


async def test_a_notice_may_come_without_a_number(desk: Desk) -> None:
    assert desk.notice("alipay", serial="").report is not None
    assert desk.refusal("next", serial="") == "bad_signature"


async def test_a_flood_of_forged_numbers_costs_one_download_a_minute(desk: Desk) -> None:
    for number in range(500):
        assert desk.refusal("stranger", serial=f"{number:032x}") == "unknown_serial"
        await asyncio.sleep(0)
    await settled(desk, 1)
    assert len(desk.downloads()) == 1

    desk.now += timedelta(seconds=59)
    assert desk.refusal("stranger", serial="a" * 32) == "unknown_serial"
    await settled(desk, 2)
    assert len(desk.downloads()) == 1

    desk.now += timedelta(seconds=1)
    assert desk.refusal("stranger", serial="a" * 32) == "unknown_serial"
    await settled(desk, 2)
    assert len(desk.downloads()) == 2
    assert desk.notice("alipay").report is not None


async def test_forged_notices_do_not_keep_answers_from_their_certificate(desk: Desk) -> None:
    assert desk.refusal("stranger", serial="a" * 32) == "unknown_serial"

    assert (await desk.channel.query(NUMBER)).state is ChannelState.PAID


@pytest.mark.parametrize("serial", ["x", "a" * 31, "A" * 32, "a" * 33, "../" * 8, "中"])
async def test_what_is_no_number_is_asked_of_nobody(desk: Desk, serial: str) -> None:
    assert desk.refusal("stranger", serial=serial) in ("unknown_serial", "malformed")

    await asyncio.sleep(0.05)

    assert desk.there.heard == []


def other_root() -> bytes:
    own_root = certificate("stranger", "R", by="stranger", issuer=ISSUER, may_issue=True)
    return pem(alipays("next", by="stranger"), own_root)


def issued_by_a_merchant() -> bytes:
    """A merchant's own certificate reaches the root; what it signs must not."""
    merchant = certificate("stranger", ISSUER)
    return pem(alipays("next", by="stranger"), merchant, issuer())


CHAINS: dict[str, Any] = {
    "nothing": lambda: b"",
    "no certificate": lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    "another one": lambda: pem(alipays(), issuer()),
    "no issuer": lambda: pem(alipays("next")),
    "another root": other_root,
    "a merchant as issuer": issued_by_a_merchant,
}


@pytest.mark.parametrize("name", sorted(CHAINS))
async def test_a_chain_that_does_not_hold_teaches_nothing(desk: Desk, name: str) -> None:
    desk.chain = CHAINS[name]()

    with pytest.raises(ChannelUnknown) as raised:
        await desk.channel.query(NUMBER)

    assert raised.value.code == "UNVERIFIED"
    assert len(desk.downloads()) == 1
    assert desk.refusal() == "unknown_serial"
    desk.signer = "alipay"
    assert (await desk.channel.query(NUMBER)).state is ChannelState.PAID


@pytest.mark.parametrize(
    "changes",
    [
        {"days": (-60, -1)},
        {"days": (1, 60)},
        {"common": "2088000000000666-2021000000000666"},
    ],
)
async def test_a_certificate_out_of_date_or_of_another_owner_teaches_nothing(
    desk: Desk, changes: dict[str, Any]
) -> None:
    leaf = alipays("next", **changes)
    desk.serial, desk.chain = sn(leaf), pem(leaf, issuer())

    with pytest.raises(ChannelUnknown):
        await desk.channel.query(NUMBER)

    assert len(desk.downloads()) == 1


async def test_a_learned_certificate_ends_with_its_days(desk: Desk) -> None:
    assert (await desk.channel.query(NUMBER)).state is ChannelState.PAID

    desk.now += timedelta(days=366)

    assert desk.refusal() == "unknown_serial"


async def test_a_download_that_fails_is_tried_again_later(desk: Desk) -> None:
    good, desk.chain = desk.chain, b""
    with pytest.raises(ChannelUnknown):
        await desk.channel.query(NUMBER)

    desk.chain = good
    with pytest.raises(ChannelUnknown):
        await desk.channel.query(NUMBER)
    desk.now += timedelta(seconds=60)

    assert (await desk.channel.query(NUMBER)).state is ChannelState.PAID


async def test_a_caller_who_gives_up_does_not_end_the_download(desk: Desk) -> None:
    desk.wait.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(desk.channel.query(NUMBER), 0.2)

    desk.wait.set()

    assert (await desk.channel.query(NUMBER)).state is ChannelState.PAID
    assert len(desk.downloads()) == 1


# Files that are replaced


@dataclass
class Machine:
    """A folder of secrets on clocks of the test's own."""

    folder: Path
    seconds: float = 1_000.0

    def files(self) -> KeyFiles:
        return KeyFiles(
            lambda name: (self.folder / name).read_bytes(),
            lambda name: self.folder / name,
            monotonic=lambda: self.seconds,
            wall_seconds=lambda: 10.0**11,
        )

    def replace(self, **contents: bytes) -> None:
        write_all(self.folder, contents)
        self.seconds += 2


def key_mode(machine: Machine) -> Alipay:
    account = AlipayAccount(
        account_id=f"alipay:{APP_ID}",
        name="江城市政务缴费归集户",
        gateway_url="http://127.0.0.1:9/gateway.do",
        app_id=APP_ID,
        seller_id=SELLER_ID,
        private_key_file="merchant",
        alipay_public_key_file="alipay",
        bill_hosts=[],
    )
    return alipay.from_settings(_no_session(), account, machine.files(), lambda: NOW, VAULT)


def is_believed(channel: Alipay, signer: str) -> bool:
    try:
        channel.open_notice(*alipay_form(alipay_notice(), signer=signer), now=NOW)
    except NoticeRejected as rejected:
        return rejected.reason != "bad_signature"
    return True


def test_a_replaced_key_of_alipay_works_at_once_and_the_old_one_for_a_day(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.replace(merchant=private_pem("merchant"), alipay=public_pem("alipay"))
    channel = key_mode(machine)
    assert not is_believed(channel, "next")

    machine.replace(alipay=public_pem("next"))

    assert is_believed(channel, "next")
    assert is_believed(channel, "alipay")
    machine.seconds += OVERLAP_SECONDS
    assert is_believed(channel, "next")
    assert not is_believed(channel, "alipay")


def test_a_key_file_may_hold_the_old_and_the_new_key(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    both = public_pem("alipay") + b"\n" + public_pem("next")
    machine.replace(merchant=private_pem("merchant"), alipay=both)
    channel = key_mode(machine)

    assert is_believed(channel, "alipay")
    assert is_believed(channel, "next")
    assert not is_believed(channel, "stranger")


def test_one_bad_key_spoils_the_file() -> None:
    with pytest.raises(ValueError, match=r"."):
        public_keys(
            public_pem("alipay") + b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"
        )


async def test_our_own_key_is_replaced_without_a_restart(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.replace(merchant=private_pem("merchant"), alipay=public_pem("alipay"))
    channel = key_mode(machine)
    machine.replace(merchant=private_pem("next"))

    request = PaymentRequest(NUMBER, 1, "登记费", NOW, "https://e.example.cn/n")
    ticket = await channel.open_payment(Scene.WAP, request)

    query = dict(parse_qsl(urlsplit(str(ticket.redirect_url)).query))
    message = "&".join(f"{k}={v}" for k, v in sorted(query.items()) if k != "sign")
    verify("next", message.encode(), query["sign"])


async def test_our_key_and_its_certificate_change_together(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.replace(**secrets())
    channel = certificate_channel(files=machine.files())
    request = PaymentRequest(NUMBER, 1, "登记费", NOW, "https://e.example.cn/n")

    async def signed_with() -> str:
        ticket = await channel.open_payment(Scene.PAGE, request)
        return dict(parse_qsl(urlsplit(str(ticket.redirect_url)).query))["app_cert_sn"]

    machine.replace(app_key=private_pem("next"))
    assert await signed_with() == sn(certificate("merchant", MERCHANT))

    machine.replace(app_cert=pem(certificate("next", MERCHANT)))
    assert await signed_with() == sn(certificate("next", MERCHANT))


def test_a_replaced_certificate_of_alipay_works_beside_the_old_one(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.replace(**secrets())
    channel = certificate_channel(files=machine.files())
    machine.replace(alipay_cert=pem(alipays("next"), issuer()))

    for signer in ("next", "alipay"):
        fields = alipay_notice(app_id=CERTIFICATE_APP_ID)
        headers, body = alipay_form(fields, signer=signer)
        number = sn(alipays(signer)).encode()
        notice = channel.open_notice(headers, body + b"&alipay_cert_sn=" + number, now=NOW)
        assert notice.report is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"app_key": private_pem("stranger")},
        {"app_cert": b""},
        {"alipay_cert": b""},
        {"alipay_cert": pem(root())},
        {"alipay_root": b""},
    ],
)
def test_files_that_do_not_fit_stop_the_start(changes: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"."):
        certificate_channel(files=KeyFiles({**secrets(), **changes}.__getitem__))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_all(tmp_path, {**secrets()})
    os.remove(tmp_path / "alipay_root")

    with pytest.raises(OSError, match="alipay_root"):
        certificate_channel(files=Machine(tmp_path).files())


def test_a_certificate_with_another_key_is_not_ours() -> None:
    with pytest.raises(ValueError, match="not of its private key"):
        own_with_certificate(
            private_pem("merchant"), pem(certificate("stranger", MERCHANT)), pem(root())
        )


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"alipay_public_key_file": "a", "app_cert_file": "b"},
        {"app_cert_file": "a", "alipay_cert_file": "b"},
        {
            "alipay_public_key_file": "a",
            "app_cert_file": "b",
            "alipay_cert_file": "c",
            "alipay_root_cert_file": "d",
        },
    ],
)
def test_an_account_is_in_one_mode_or_the_other(files: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="either alipay_public_key_file, or all of"):
        AlipayAccount(
            account_id="alipay:1",
            name="x",
            gateway_url="http://127.0.0.1:9",
            app_id="1",
            seller_id="2",
            private_key_file="k",
            bill_hosts=[],
            **files,
        )
