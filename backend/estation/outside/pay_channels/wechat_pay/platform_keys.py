"""The keys WeChat Pay signs with: its public key and its platform certificates side by side.

A merchant being moved from certificates to the public key gets both kinds at the same time,
responses and notices switching separately, so the serial in the header chooses.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.outside.pay_channels.believing import Disbelief
from estation.outside.pay_channels.wechat_pay.resources import open_resource

REFRESH_SECONDS = 60
_CERTIFICATE_SERIAL = re.compile(r"[0-9A-Fa-f]{8,40}")
log = structlog.get_logger()

Fetch = Callable[[], Awaitable[Mapping[str, "PlatformKey"]]]


@dataclass(frozen=True, slots=True)
class PlatformKey:
    """`expires_at` is None for the public key, which is changed by hand."""

    key: RSAPublicKey
    expires_at: datetime | None = None


class PlatformKeys:
    """Serial -> key. New certificates are added; the old ones stay until they expire.

    An unknown serial may ask for a refresh: one at a time, at least REFRESH_SECONDS apart, so
    that a flood of forged serials costs one call a minute and never empties the set.
    """

    def __init__(self, known: Mapping[str, PlatformKey]) -> None:
        self._keys = dict(known)
        self._flight: asyncio.Task[None] | None = None
        self._tried_at: datetime | None = None

    def find(self, serial: str, now: datetime) -> RSAPublicKey | None:
        known = self._keys.get(serial)
        if known is None or (known.expires_at is not None and known.expires_at < now):
            return None
        return known.key

    def joined_by(self, new: Mapping[str, PlatformKey]) -> "PlatformKeys":
        """These keys and the new ones, as a set of their own."""
        return PlatformKeys({**self._keys, **new})

    def wish(self, serial: str, fetch: Fetch, *, now: datetime) -> None:
        """Start a refresh in the background if this serial could be a new certificate's."""
        if _CERTIFICATE_SERIAL.fullmatch(serial) and self._may_start(now):
            self._start(fetch, now)

    async def refresh(self, serial: str, fetch: Fetch, *, now: datetime) -> None:
        """As `wish`, and wait for it, or for the one already under way."""
        self.wish(serial, fetch, now=now)
        if self._flight is not None:
            # Shielded: one caller's time-out must not end the refresh others wait for.
            await asyncio.shield(self._flight)

    def _may_start(self, now: datetime) -> bool:
        if self._flight is not None:
            return False
        if self._tried_at is None:
            return True
        return abs((now - self._tried_at).total_seconds()) >= REFRESH_SECONDS

    def _start(self, fetch: Fetch, now: datetime) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # Called outside a loop: nobody could wait for the answer.
        self._tried_at = now
        self._flight = loop.create_task(self._fetch(fetch))

    async def _fetch(self, fetch: Fetch) -> None:
        try:
            new = await fetch()
            self._keys = {**self._keys, **new}
            log.info("wechat_pay_certificates_refreshed", serials=sorted(new))
        except Exception as failure:
            log.warning("wechat_pay_certificates_not_refreshed", error=type(failure).__name__)
        finally:
            self._flight = None


def certificates_in(body: bytes, cipher: AESGCM) -> dict[str, PlatformKey]:
    """Decrypts the answer of GET /v3/certificates. Raises Disbelief when any part is not right."""
    try:
        answer = orjson.loads(body)
        listed = [_certificate(item, cipher) for item in answer["data"]]
    except (ValueError, KeyError, TypeError) as failure:
        raise Disbelief("malformed", "certificates") from failure
    return dict(listed)


def _certificate(item: Any, cipher: AESGCM) -> tuple[str, PlatformKey]:
    pem = open_resource(cipher, item["encrypt_certificate"])
    certificate = x509.load_pem_x509_certificate(pem)
    key = certificate.public_key()
    serial = format(certificate.serial_number, "X")
    if not isinstance(key, RSAPublicKey) or item["serial_no"].lstrip("0").upper() != serial:
        raise Disbelief("malformed", "certificate")
    return item["serial_no"], PlatformKey(key, certificate.not_valid_after_utc)
