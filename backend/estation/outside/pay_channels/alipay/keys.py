"""The keys of one application: ours to sign with, Alipay's to believe with.

In key mode Alipay's key is a file, put there by hand. In certificate mode the number that stands
beside a signature names the certificate; one we do not know may be downloaded.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from estation.outside.pay_channels.alipay.certificates import (
    Learned,
    Pinned,
    certificate_sn,
    read_certificates,
    root_sn,
    vouched_for,
)
from estation.outside.pay_channels.believing import (
    load_private_key,
    load_public_key,
    rsa_key,
)
from estation.shared.key_files import WatchedKey

DOWNLOAD_SECONDS: Final = 60
_SERIAL: Final = re.compile(r"[0-9a-f]{32}")
_MOST_LEARNED: Final = 8
_PEM_KEY: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)

log = structlog.get_logger()

Download = Callable[[str], Awaitable[bytes]]
"""A certificate's number -> the PEM that Alipay gives for it, not yet believed."""


@dataclass(frozen=True, slots=True)
class Own:
    """What we sign with, and the parameters that tell Alipay with what."""

    private_key: RSAPrivateKey = field(repr=False)
    parameters: Mapping[str, str] = field(default_factory=dict)


class AsksFor(StrEnum):
    """Who met an unknown number. Anybody can send us a notice that names one, so that answers
    of the gateway, which nobody can forge, keep a turn of their own."""

    ANSWER = "answer"
    NOTICE = "notice"


class AlipayKeys(Protocol):
    def candidates(self, serial: str, *, now: datetime) -> tuple[RSAPublicKey, ...]:
        """The keys that may have signed; `serial` is "" where none stood beside the signature.
        Empty for an unknown one."""
        ...

    def wish(self, serial: str, download: Download, *, now: datetime) -> None:
        """Look for an unknown certificate in the background, if it is time to."""
        ...

    async def learn(self, serial: str, download: Download, *, now: datetime) -> None:
        """Look for an unknown certificate and wait for it, or for the look already under way."""
        ...


class KeyMode:
    """Every key of the file, and for a day those of the file it replaced."""

    def __init__(self, file: WatchedKey[tuple[RSAPublicKey, ...]]) -> None:
        self._file = file

    def candidates(self, serial: str, *, now: datetime) -> tuple[RSAPublicKey, ...]:
        current, *before = self._file.with_previous()
        return current if not before else (*current, *before[0])

    def wish(self, serial: str, download: Download, *, now: datetime) -> None:
        """There is nothing to download."""

    async def learn(self, serial: str, download: Download, *, now: datetime) -> None:
        """There is nothing to download."""


class CertificateMode:
    """The certificates given by hand, and those learned since, by number.

    One download at a time and at least DOWNLOAD_SECONDS apart, so that a flood of forged numbers
    costs one call a minute; what is known already is never dropped for it.
    """

    def __init__(self, files: WatchedKey[Pinned]) -> None:
        self._files = files
        self._learned: dict[str, Learned] = {}
        self._flights: dict[AsksFor, asyncio.Task[None]] = {}
        self._tried_at: dict[AsksFor, datetime] = {}

    def candidates(self, serial: str, *, now: datetime) -> tuple[RSAPublicKey, ...]:
        files = self._files.with_previous()
        if not serial:
            given = [key for pinned in files for key in pinned.keys.values()]
            return (*given, *(one.key for one in self._learned.values() if self._holds(one, now)))
        for pinned in files:
            if serial in pinned.keys:
                return (pinned.keys[serial],)
        learned = self._learned.get(serial)
        return (learned.key,) if learned is not None and self._holds(learned, now) else ()

    def wish(self, serial: str, download: Download, *, now: datetime) -> None:
        self._start(AsksFor.NOTICE, serial, download, now)

    async def learn(self, serial: str, download: Download, *, now: datetime) -> None:
        self._start(AsksFor.ANSWER, serial, download, now)
        flight = self._flights.get(AsksFor.ANSWER)
        if flight is not None:
            # Shielded: one caller's time-out must not end the download others wait for.
            await asyncio.shield(flight)

    def _holds(self, learned: Learned, now: datetime) -> bool:
        return learned.expires_at >= now and learned.root in self._files.current().roots

    def _start(self, who: AsksFor, serial: str, download: Download, now: datetime) -> None:
        if not _SERIAL.fullmatch(serial) or who in self._flights:
            return
        tried_at = self._tried_at.get(who)
        if tried_at is not None and abs((now - tried_at).total_seconds()) < DOWNLOAD_SECONDS:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # Called outside a loop: nobody could wait for the answer.
        self._tried_at[who] = now
        self._flights[who] = loop.create_task(self._fetch(who, serial, download, now))

    async def _fetch(self, who: AsksFor, serial: str, download: Download, now: datetime) -> None:
        try:
            learned = vouched_for(serial, await download(serial), self._files.current(), now=now)
            kept = list(self._learned.items())[-(_MOST_LEARNED - 1) :]
            self._learned = {**dict(kept), serial: learned}
            log.info("alipay_certificate_learned", serial=serial)
        except Exception as failure:
            log.warning(
                "alipay_certificate_not_learned",
                serial=serial,
                asked_for=who,
                error=type(failure).__name__,
            )
        finally:
            del self._flights[who]


def own_with_key(private: bytes) -> Own:
    return Own(load_private_key(private))


def own_with_certificate(private: bytes, certificate: bytes, roots: bytes) -> Own:
    """Raises ValueError when they are not one another's: of a pair being replaced, one is still
    the old one."""
    key = load_private_key(private)
    found = read_certificates(certificate)
    if not found or rsa_key(found[0].public_key()) != key.public_key():
        raise ValueError("the application's certificate is not of its private key")
    root_number = root_sn(read_certificates(roots))
    if not root_number:
        raise ValueError("no RSA root")
    return Own(
        key,
        {"app_cert_sn": certificate_sn(found[0]), "alipay_root_cert_sn": root_number},
    )


def public_keys(data: bytes) -> tuple[RSAPublicKey, ...]:
    """All keys of a file; one that is not PEM holds one. While Alipay changes from one key to
    the next, the file holds both. Raises ValueError."""
    blocks = [block[0] for block in _PEM_KEY.finditer(data)]
    return tuple(load_public_key(block) for block in blocks or [data])
