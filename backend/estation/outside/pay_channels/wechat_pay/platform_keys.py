"""The keys WeChat Pay signs with: its public key and its platform certificates side by side.

A merchant being moved from certificates to the public key gets both kinds at the same time,
responses and notices switching separately, so the serial in the header chooses.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import orjson
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from estation.outside.pay_channels.believing import Disbelief
from estation.outside.pay_channels.wechat_pay.resources import Cipher, open_resource
from estation.outside.pay_channels.wechat_pay.schemes import AES_GCM
from estation.outside.pay_channels.wechat_pay.sm import Sm2PublicKey, sm2_public_key_in
from estation.shared.key_files import WatchedKey

REFRESH_SECONDS = 60
_CERTIFICATE_SERIAL = re.compile(r"[0-9A-Fa-f]{8,40}")
_PUBLIC_KEY_ID = re.compile(rb"PUB_KEY_ID_[0-9A-Za-z]+")
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)
log = structlog.get_logger()

Fetch = Callable[[], Awaitable[Mapping[str, "PlatformKey"]]]
PublicKey: TypeAlias = RSAPublicKey | Sm2PublicKey


@dataclass(frozen=True, slots=True)
class PlatformKey:
    """`expires_at` is None for a public key, which is changed by hand."""

    key: PublicKey
    expires_at: datetime | None = None


class PlatformKeys:
    """Serial -> key. New certificates are added; the old ones stay until they expire.

    `public_keys` are those of our own files, by their id, as they are now; what a file named
    before is good for another day. An unknown serial may ask for a
    refresh: one at a time, at least REFRESH_SECONDS apart, so that a flood of forged serials
    costs one call a minute and never empties the set.
    """

    def __init__(
        self,
        known: Mapping[str, PlatformKey],
        public_keys: Sequence[WatchedKey[Mapping[str, PublicKey]]] = (),
    ) -> None:
        self._keys = dict(known)
        self._public_keys = tuple(public_keys)
        self._flight: asyncio.Task[bool] | None = None
        self._tried_at: datetime | None = None

    def find(self, serial: str, now: datetime) -> PublicKey | None:
        for file in self._public_keys:
            for named in file.with_previous():
                if (ours := named.get(serial)) is not None:
                    return ours
        known = self._keys.get(serial)
        if known is None or (known.expires_at is not None and known.expires_at < now):
            return None
        return known.key

    def preferred(self, now: datetime) -> str | None:
        """The serial to be answered under: our first public key, else the newest certificate."""
        if self._public_keys:
            return next(iter(self._public_keys[0].current()))
        living = [
            (known.expires_at, serial)
            for serial, known in self._keys.items()
            if known.expires_at is not None and known.expires_at >= now
        ]
        return max(living)[1] if living else None

    def joined_by(self, new: Mapping[str, PlatformKey]) -> "PlatformKeys":
        """These keys and the new ones, as a set of their own."""
        return PlatformKeys({**self._keys, **new}, self._public_keys)

    def wish(self, serial: str, fetch: Fetch, *, now: datetime) -> None:
        """Start a refresh in the background if this serial could be a new certificate's."""
        if _CERTIFICATE_SERIAL.fullmatch(serial) and self._may_start(now):
            self._start(fetch, now)

    async def refresh(self, serial: str, fetch: Fetch, *, now: datetime) -> None:
        """As `wish`, and wait for it, or for the one already under way."""
        self.wish(serial, fetch, now=now)
        await self._landed()

    async def renew(self, fetch: Fetch, *, now: datetime) -> bool:
        """Refresh without being asked by a serial; whether WeChat Pay has answered."""
        if self._may_start(now):
            self._start(fetch, now)
        return await self._landed()

    async def _landed(self) -> bool:
        if self._flight is None:
            return False
        # Shielded: one caller's time-out must not end the refresh others wait for.
        return await asyncio.shield(self._flight)

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
        self._flight = loop.create_task(self._fetch(fetch, now))

    async def _fetch(self, fetch: Fetch, now: datetime) -> bool:
        try:
            new = await fetch()
            self._keys = {**self._living(now), **new}
            log.info("wechat_pay_certificates_refreshed", serials=sorted(new))
            return True
        except Exception as failure:
            log.warning("wechat_pay_certificates_not_refreshed", error=type(failure).__name__)
            return False
        finally:
            self._flight = None

    def _living(self, now: datetime) -> dict[str, PlatformKey]:
        return {
            serial: known
            for serial, known in self._keys.items()
            if known.expires_at is None or known.expires_at >= now
        }


def public_keys_in(
    data: bytes, *, only: str, load: Callable[[bytes], PublicKey]
) -> Mapping[str, PublicKey]:
    """Id -> key, in the order of the file. One key needs no name in it and is then called `only`,
    as the settings do; of several each has its id (PUB_KEY_ID_…) in the line before it, so that
    a new one, which has a new id, is taken without another setting. Raises ValueError."""
    keys = list(_PEM.finditer(data))
    if len(keys) < 2 and _PUBLIC_KEY_ID.search(data) is None:
        return {only: load(data)}
    found: dict[str, PublicKey] = {}
    end = 0
    for key in keys:
        (name,) = _PUBLIC_KEY_ID.findall(data[end : key.start()])
        if name.decode() in found:
            raise ValueError("two public keys of one id")
        found[name.decode()] = load(key[0])
        end = key.end()
    if not found or _PUBLIC_KEY_ID.search(data[end:]):
        raise ValueError("an id without its public key")
    return found


def certificates_in(
    body: bytes, cipher: Cipher, algorithm: str = AES_GCM
) -> dict[str, PlatformKey]:
    """Decrypts the answer of GET /v3/certificates. Raises Disbelief when any part is not right."""
    try:
        answer = orjson.loads(body)
        listed = [_certificate(item, cipher, algorithm) for item in answer["data"]]
    except (ValueError, KeyError, TypeError) as failure:
        raise Disbelief("malformed", "certificates") from failure
    return dict(listed)


def _certificate(item: Any, cipher: Cipher, algorithm: str) -> tuple[str, PlatformKey]:
    pem = open_resource(cipher, item["encrypt_certificate"], algorithm)
    certificate = x509.load_pem_x509_certificate(pem)
    key: object
    if algorithm == AES_GCM:
        key = certificate.public_key()
    else:
        key = sm2_public_key_in(certificate.public_bytes(Encoding.DER))
    serial = format(certificate.serial_number, "X")
    if not isinstance(key, RSAPublicKey | Sm2PublicKey):
        raise Disbelief("malformed", "certificate")
    if item["serial_no"].lstrip("0").upper() != serial:
        raise Disbelief("malformed", "certificate")
    return item["serial_no"], PlatformKey(key, certificate.not_valid_after_utc)
