"""Whose signature is believed while keys come, change and go; and who we are meanwhile."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from estation.outside.pay_channels import ChannelState, ChannelUnknown, NoticeRejected, Scene
from estation.outside.pay_channels.building import (
    RENEW_SECONDS,
    RETRY_SECONDS,
    channels_from_settings,
    fresh_certificates,
    keep_renewing,
)
from estation.outside.pay_channels.wechat_pay import WechatPay
from estation.settings import Settings, WechatPayAccount
from estation.shared.key_files import OVERLAP_SECONDS, KeyFiles
from tests.outside.certificates import certificate, certificate_answer, serial_of
from tests.outside.counterparts import (
    API_V3_KEY,
    NOW,
    PUBLIC_KEY_ID,
    VAULT,
    WechatNotice,
    private_pem,
    public_pem,
    transaction,
    verify,
    wechat_pay_channel,
)
from tests.outside.listening import Heard, Listener, calling, listening
from tests.outside.test_wechat_pay_calls import REQUEST
from tests.outside.wechat_desk import right, wrong

NUMBER = "20260301ABCDEFGHJKMNPQRS"
CERTIFICATES_ONLY: dict[str, Any] = {
    "public_key_id": None,
    "public_key_file": None,
    "certificates": True,
}


@pytest.fixture
async def there() -> AsyncIterator[Listener]:
    async with listening() as listener:
        yield listener


def paid(**signature: str) -> web.Response:
    return right(transaction(), **signature)


def by(name: str) -> dict[str, str]:
    return {"signer": name, "serial": serial_of(name)}


def asked_for_certificates(there: Listener) -> int:
    return sum("/v3/certificates" in heard.target for heard in there.heard)


# Certificates


async def test_a_merchant_with_certificates_alone_learns_them_by_its_first_call(
    there: Listener,
) -> None:
    there.say(
        paid(**by("certificate")), certificate_answer("certificate"), paid(**by("certificate"))
    )
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, **CERTIFICATES_ONLY)

        first = await channel.query(NUMBER)
        second = await channel.query(NUMBER)

    assert first.state is second.state is ChannelState.PAID
    assert "wechatpay-serial" not in there.heard[0].headers
    assert there.heard[2].headers["wechatpay-serial"] == serial_of("certificate")


async def test_of_two_certificates_the_newest_is_asked_for_and_both_are_believed(
    there: Listener,
) -> None:
    old, new = certificate_answer("old", days=10), certificate_answer("new")
    there.say(old, new, paid(**by("old")), paid(**by("new")))
    now = [NOW]
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, **CERTIFICATES_ONLY)
        channel._transport._clock = lambda: now[0]

        assert await channel.renew_certificates()
        now[0] += timedelta(seconds=61)
        assert await channel.renew_certificates()
        for _ in range(2):
            assert (await channel.query(NUMBER)).state is ChannelState.PAID

    assert there.heard[2].headers["wechatpay-serial"] == serial_of("new")


async def test_an_expired_certificate_is_believed_no_more(there: Listener) -> None:
    there.say(certificate_answer("old", days=10))
    headers, body = WechatNotice(
        timestamp=str(int((NOW + timedelta(days=11)).timestamp())), **by("old")
    ).sent()
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, **CERTIFICATES_ONLY)
        await channel.renew_certificates()

        with pytest.raises(NoticeRejected, match="unknown_serial"):
            channel.open_notice(headers, body, now=NOW + timedelta(days=11))


async def test_a_gray_switch_brings_both_kinds_of_signature_by_calls_and_by_notices(
    there: Listener,
) -> None:
    there.say(certificate_answer("certificate"), paid(), paid(**by("certificate")))
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, certificates=True)
        await channel.renew_certificates()

        for _ in range(2):
            assert (await channel.query(NUMBER)).state is ChannelState.PAID
        for signature in ({}, by("certificate")):
            headers, body = WechatNotice(**signature).sent()
            assert channel.open_notice(headers, body, now=NOW).report is not None
        # The serial chooses: one key under the other's name is a forgery.
        headers, body = WechatNotice(signer="certificate").sent()
        with pytest.raises(NoticeRejected, match="bad_signature"):
            channel.open_notice(headers, body, now=NOW)

    assert there.heard[1].headers["wechatpay-serial"] == PUBLIC_KEY_ID


@pytest.mark.parametrize(
    "answer",
    [
        wrong(404, "RESOURCE_NOT_EXISTS"),
        wrong(403, "NO_AUTH"),
        right({"data": []}),
        web.json_response({"data": []}),
    ],
)
async def test_a_merchant_of_the_public_key_time_has_no_certificates_and_that_is_no_failure(
    there: Listener, answer: web.Response
) -> None:
    there.say(answer)
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, certificates=True)
        with capture_logs() as logs:
            assert await channel.renew_certificates()

        assert [line["log_level"] for line in logs] == ["info"]
        headers, body = WechatNotice().sent()
        assert channel.open_notice(headers, body, now=NOW).report is not None


@pytest.mark.parametrize(
    "answer",
    [
        wrong(500, "SYSTEM_ERROR"),
        wrong(401, "SIGN_ERROR"),
        certificate_answer("new", api_v3_key=b"f" * 32),
        web.json_response({"data": 5}),
        web.Response(body=b"<html>"),
    ],
)
async def test_a_failing_fetch_drops_nothing(there: Listener, answer: web.Response) -> None:
    now = [NOW]
    there.say(certificate_answer("old"), answer)
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, certificates=True)
        channel._transport._clock = lambda: now[0]
        assert await channel.renew_certificates()
        now[0] += timedelta(seconds=61)

        assert not await channel.renew_certificates()

        for signature in ({}, by("old")):
            headers, body = WechatNotice(**signature).sent()
            assert channel.open_notice(headers, body, now=NOW).report is not None


async def test_renewing_keeps_a_minute_between_two_calls_and_flies_once(there: Listener) -> None:
    there.say(certificate_answer("certificate"))
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, certificates=True)

        together = await asyncio.gather(*(channel.renew_certificates() for _ in range(10)))
        again = await channel.renew_certificates()

    assert all(together)
    assert not again
    assert asked_for_certificates(there) == 1


async def test_renewing_comes_back_within_twelve_hours_and_soon_after_a_failure() -> None:
    pauses: list[float] = []

    answers = [True, False, True]

    class Channel:
        async def renew_certificates(self) -> bool:
            return answers.pop(0)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    with pytest.raises(IndexError):
        await keep_renewing(Channel(), pause=pause)

    assert pauses == [RENEW_SECONDS, RETRY_SECONDS, RENEW_SECONDS]
    assert 60 <= RETRY_SECONDS < RENEW_SECONDS <= 12 * 3600


async def test_the_program_fetches_certificates_at_its_start_for_accounts_that_have_them(
    there: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(secrets_dir=tmp_path)
    for name, content in {
        "wechat_pay/merchant_key.pem": private_pem("merchant"),
        "wechat_pay/api_v3.key": API_V3_KEY,
        "wechat_pay/platform_public_key.pem": public_pem("platform"),
        "alipay/merchant_key.pem": private_pem("merchant"),
        "alipay/alipay_public_key.pem": public_pem("platform"),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    without = settings.wechat_pay[0].model_copy(update={"base_url": there.base_url})
    having = without.model_copy(update={"account_id": "wechat_pay:2", "certificates": True})
    settings = settings.model_copy(update={"wechat_pay": [without, having], "wechat_combine": []})
    there.say(certificate_answer("certificate"))
    async with calling() as session:
        channels = channels_from_settings(session, settings, lambda: NOW, VAULT)

        async with fresh_certificates(channels, settings):
            for _ in range(100):
                if asked_for_certificates(there):
                    break
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)

    assert asked_for_certificates(there) == 1
    assert len(there.heard) == 1


# D13: age on notices, floods of serials, serials that no certificate can have


@pytest.mark.parametrize("minutes", [6, -6, 24 * 60])
async def test_d13_a_notice_replayed_after_six_minutes_is_stale(minutes: int) -> None:
    headers, body = WechatNotice().sent()
    channel = wechat_pay_channel()
    assert channel.open_notice(headers, body, now=NOW).report is not None

    with pytest.raises(NoticeRejected) as rejected:
        channel.open_notice(headers, body, now=NOW + timedelta(minutes=minutes))

    assert rejected.value.reason == ("stale" if minutes > 0 else "future")


async def test_d13_a_flood_of_serials_while_the_certificate_call_fails_drops_no_key(
    there: Listener,
) -> None:
    there.say(certificate_answer("certificate"), wrong(500, "SYSTEM_ERROR"))
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, certificates=True)
        await channel.renew_certificates()
        later = NOW + timedelta(seconds=61)

        for number in range(200):
            headers, body = WechatNotice(serial=f"{number:040X}").sent()
            with pytest.raises(NoticeRejected, match="unknown_serial"):
                channel.open_notice(headers, body, now=later)
            await asyncio.sleep(0)
        await asyncio.sleep(0.3)

        assert asked_for_certificates(there) == 2
        for signature in ({}, by("certificate")):
            headers, body = WechatNotice(**signature).sent()
            assert channel.open_notice(headers, body, now=later).report is not None


@pytest.mark.parametrize("serial", ["PUB_KEY_ID_x", "pub_key_id_0119000001092026", "x" * 40, "中"])
async def test_d13_a_serial_no_certificate_can_have_is_simply_unknown(
    there: Listener, serial: str
) -> None:
    there.say(certificate_answer("certificate"))
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, certificates=True)
        await channel.renew_certificates()
        headers, body = WechatNotice(serial=serial).sent()

        with pytest.raises(NoticeRejected, match="unknown_serial"):
            channel.open_notice(headers, body, now=NOW + timedelta(seconds=100))
        await asyncio.sleep(0.1)

    assert asked_for_certificates(there) == 1


# Our own keys, replaced while the program runs


@dataclass
class Safe:
    """The folder of secrets and a clock that the tests move."""

    folder: Path
    seconds: float = 0.0

    def files(self) -> KeyFiles:
        return KeyFiles(
            lambda name: (self.folder / name).read_bytes(),
            lambda name: self.folder / name,
            monotonic=lambda: self.seconds,
            wall_seconds=lambda: 10**11,
        )

    def put(self, name: str, content: bytes) -> None:
        fresh = self.folder / "fresh"
        fresh.write_bytes(content)
        fresh.replace(self.folder / name)

    def channel(self, session: Any = None, base_url: str = "http://x", **changes: Any) -> WechatPay:
        return wechat_pay_channel(session, base_url, files=self.files(), **changes)


@pytest.fixture
def safe(tmp_path: Path) -> Safe:
    safe = Safe(tmp_path)
    safe.put("merchant", private_pem("merchant"))
    safe.put("serial", certificate("merchant").public_bytes(serialization.Encoding.PEM))
    safe.put("api_v3", API_V3_KEY)
    safe.put("platform", public_pem("platform"))
    safe.put("platform-2", public_pem("platform-2"))
    return safe


def signed_by(heard: Heard) -> tuple[str, str]:
    """Which key and serial the request was signed with."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', heard.headers["authorization"]))
    head = f"{heard.method}\n{heard.target}\n{fields['timestamp']}\n{fields['nonce_str']}\n"
    for name in ("merchant", "merchant-2"):
        try:
            verify(name, head.encode() + heard.body + b"\n", fields["signature"])
        except InvalidSignature:
            continue
        return name, fields["serial_no"]
    raise AssertionError("signed by nobody we know")


async def test_merchant_key_and_serial_are_replaced_together_without_a_restart(
    there: Listener, safe: Safe
) -> None:
    there.say(paid())
    async with calling() as session:
        channel = safe.channel(
            session, there.base_url, merchant_serial="", merchant_serial_file="serial"
        )
        await channel.query(NUMBER)

        safe.put("merchant", private_pem("merchant-2"))
        safe.seconds += 2
        await channel.query(NUMBER)  # The certificate is still the old key's.
        safe.put("serial", certificate("merchant-2").public_bytes(serialization.Encoding.PEM))
        safe.seconds += 2
        await channel.query(NUMBER)

    assert [signed_by(heard) for heard in there.heard] == [
        ("merchant", serial_of("merchant")),
        ("merchant", serial_of("merchant")),
        ("merchant-2", serial_of("merchant-2")),
    ]


async def test_the_pay_sheet_is_signed_with_the_new_key_too(there: Listener, safe: Safe) -> None:
    there.say(right({"prepay_id": "wx201410272009395522657a690389285100"}))
    async with calling() as session:
        channel = safe.channel(session, there.base_url)
        safe.put("merchant", private_pem("merchant-2"))
        safe.seconds += 2

        ticket = await channel.open_payment(Scene.JSAPI, REQUEST)

    parameters = ticket.jsapi_parameters
    assert parameters is not None
    lines = [parameters[name] for name in ("appId", "timeStamp", "nonceStr", "package")]
    verify("merchant-2", "".join(f"{line}\n" for line in lines).encode(), parameters["paySign"])


def test_old_and_new_api_v3_key_open_notices_for_a_day(safe: Safe) -> None:
    channel = safe.channel()
    new = b"n" * 32
    safe.put("api_v3", new)
    safe.seconds += 2

    for api_v3_key in (new, API_V3_KEY):
        headers, body = WechatNotice(api_v3_key=api_v3_key).sent()
        assert channel.open_notice(headers, body, now=NOW).report is not None

    safe.seconds += OVERLAP_SECONDS
    headers, body = WechatNotice(api_v3_key=API_V3_KEY).sent()
    with pytest.raises(NoticeRejected, match="undecryptable"):
        channel.open_notice(headers, body, now=NOW)


def test_a_restart_in_the_overlap_reads_both_keys_from_the_file(safe: Safe) -> None:
    safe.put("api_v3", b"n" * 32 + b"\n" + API_V3_KEY + b"\n")
    channel = safe.channel()

    for api_v3_key in (b"n" * 32, API_V3_KEY):
        headers, body = WechatNotice(api_v3_key=api_v3_key).sent()
        assert channel.open_notice(headers, body, now=NOW).report is not None
    headers, body = WechatNotice(api_v3_key=b"f" * 32).sent()
    with pytest.raises(NoticeRejected, match="undecryptable"):
        channel.open_notice(headers, body, now=NOW)


@pytest.mark.parametrize("broken", [b"", b"short", b"n" * 33, b"\n".join([b"n" * 32] * 4)])
def test_a_broken_api_v3_key_keeps_the_old_one(safe: Safe, broken: bytes) -> None:
    channel = safe.channel()
    safe.put("api_v3", broken)
    safe.seconds += 2
    headers, body = WechatNotice().sent()

    with capture_logs() as logs:
        assert channel.open_notice(headers, body, now=NOW).report is not None

    assert [line["event"] for line in logs] == ["secret_not_reloaded"]
    with pytest.raises(ValueError, match="32 bytes"):
        safe.channel()


def test_several_public_keys_are_believed_each_under_its_own_name(safe: Safe) -> None:
    channel = safe.channel(public_keys={"PUB_KEY_ID_2": "platform-2"})

    for signer, serial in (("platform", PUBLIC_KEY_ID), ("platform-2", "PUB_KEY_ID_2")):
        headers, body = WechatNotice(signer=signer, serial=serial).sent()
        assert channel.open_notice(headers, body, now=NOW).report is not None
    headers, body = WechatNotice(signer="platform-2").sent()
    with pytest.raises(NoticeRejected, match="bad_signature"):
        channel.open_notice(headers, body, now=NOW)


def test_a_replaced_public_key_file_is_the_new_key(safe: Safe) -> None:
    channel = safe.channel()
    safe.put("platform", public_pem("platform-2"))
    safe.seconds += 2

    headers, body = WechatNotice(signer="platform-2").sent()

    assert channel.open_notice(headers, body, now=NOW).report is not None


async def test_a_public_key_of_a_new_id_joins_the_old_one_without_a_restart(
    safe: Safe, there: Listener
) -> None:
    """WeChat Pay gives a new public key a new id, and changes calls and notices apart."""
    new = b"PUB_KEY_ID_2\n" + public_pem("platform-2")
    old = PUBLIC_KEY_ID.encode() + b"\n" + public_pem("platform")
    both_kinds = (("platform", PUBLIC_KEY_ID), ("platform-2", "PUB_KEY_ID_2"))
    there.say(paid())
    async with calling() as session:
        channel = safe.channel(session, there.base_url)
        safe.put("platform", new + old)
        safe.seconds += 2
        for signer, serial in both_kinds:
            headers, body = WechatNotice(signer=signer, serial=serial).sent()
            assert channel.open_notice(headers, body, now=NOW).report is not None
        await channel.query(NUMBER)
        safe.put("platform", new)  # the old one is over
        safe.seconds += 2
        headers, body = WechatNotice().sent()
        assert channel.open_notice(headers, body, now=NOW).report is not None, "for another day"
        safe.seconds += 26 * 3600
        with pytest.raises(NoticeRejected, match="unknown_serial"):
            channel.open_notice(headers, body, now=NOW)

    assert there.heard[0].headers["wechatpay-serial"] == "PUB_KEY_ID_2"


@pytest.mark.parametrize(
    "content",
    [
        public_pem("platform-2") + public_pem("platform"),
        b"PUB_KEY_ID_2\n" + public_pem("platform-2") + public_pem("platform"),
        (b"PUB_KEY_ID_2\n" + public_pem("platform-2")) * 2,
        b"PUB_KEY_ID_2\n" + public_pem("platform-2") + b"PUB_KEY_ID_3\n",
        b"PUB_KEY_ID_2\nPUB_KEY_ID_3\n" + public_pem("platform-2"),
        b"PUB_KEY_ID_2\n",
        b"PUB_KEY_ID_2\n" + private_pem("platform-2"),
    ],
)
def test_a_file_in_which_a_public_key_has_not_its_one_id_keeps_the_old_key(
    safe: Safe, content: bytes
) -> None:
    channel = safe.channel()
    safe.put("platform", content)
    safe.seconds += 2

    headers, body = WechatNotice().sent()
    assert channel.open_notice(headers, body, now=NOW).report is not None
    headers, body = WechatNotice(signer="platform-2", serial="PUB_KEY_ID_2").sent()
    with pytest.raises(NoticeRejected, match="unknown_serial"):
        channel.open_notice(headers, body, now=NOW)


def test_a_certificate_of_another_key_stops_the_start(safe: Safe) -> None:
    safe.put("merchant", private_pem("merchant-2"))

    with pytest.raises(ValueError, match="belong together"):
        safe.channel(merchant_serial="", merchant_serial_file="serial")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"public_key_id": None}, "belong together"),
        ({"public_key_id": None, "public_key_file": None}, "who WeChat Pay is"),
        ({"merchant_serial": ""}, "merchant_serial"),
        ({"merchant_serial_file": "serial"}, "merchant_serial"),
        ({"signature": "md5"}, "signature"),
    ],
)
def test_an_account_that_says_too_little_is_refused(change: dict[str, Any], complaint: str) -> None:
    right_one = Settings(secrets_dir=Path("/nowhere")).wechat_pay[0].model_dump()
    assert WechatPayAccount(**right_one)

    with pytest.raises(ValueError, match=complaint):
        WechatPayAccount(**{**right_one, **change})


async def test_no_key_at_all_makes_no_call_believed(there: Listener) -> None:
    def reply(heard: Heard) -> web.Response:
        if "certificates" in heard.target:
            return wrong(404, "RESOURCE_NOT_EXISTS")
        return paid(**by("certificate"))

    there.say(reply)
    async with calling() as session:
        channel = wechat_pay_channel(session, there.base_url, **CERTIFICATES_ONLY)

        with pytest.raises(ChannelUnknown, match="UNVERIFIED"):
            await channel.query(NUMBER)

    assert asked_for_certificates(there) == 1
