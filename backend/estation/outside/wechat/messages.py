"""The official account's message door: what WeChat's server sends us, checked, and our answer.

Source: WeChat official accounts, 接入指南, 接收普通消息, 被动回复用户消息, 消息加解密说明.
"""

import base64
import binascii
import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

FRESH_SECONDS: Final = 300
"""Each delivery is signed anew; an older one is a replay."""
MESSAGE_BYTES: Final = 16 * 1024
NOTHING: Final = b"success"
"""Says that we heard and have no words; an empty body means the same."""

_BLOCK: Final = 32
_FIELDS: Final = 40


class MessageRejected(Exception):
    """Not from WeChat, or not to us; `reason` is one of: malformed, bad_signature, stale,
    undecryptable, wrong_addressee."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AccountMessage:
    """One thing somebody did in the account. `openid` names the person: not for logs.

    `said` is equal for repeated deliveries of it and different for everything else; it names the
    person, too. `event` and `event_key` are "" for what was said, `text` is "" for what was not
    said in words.
    """

    said: str
    openid: str
    account: str
    kind: str
    event: str
    event_key: str
    text: str


class MessageDoor:
    """One account's token and, in the encrypted modes, its EncodingAESKey.

    With a key nothing that came in clear is believed, also in WeChat's compatible mode, which
    sends both forms.
    """

    def __init__(
        self,
        *,
        token: Callable[[], str],
        appid: str,
        encoding_aes_key: Callable[[], bytes] | None = None,
    ) -> None:
        """Both are asked for at each message: their files may change while we run."""
        self._token = token
        self._appid = appid.encode()
        self._aes_key = encoding_aes_key

    def echo(self, query: Mapping[str, str], *, now: datetime) -> bytes:
        """The answer by which WeChat knows this address as ours. Raises MessageRejected."""
        self._check(query, "signature", now=now)
        return query.get("echostr", "").encode()

    def open(self, query: Mapping[str, str], body: bytes, *, now: datetime) -> AccountMessage:
        """Signature, age, encryption, addressee, in this order. Raises MessageRejected."""
        if len(body) > MESSAGE_BYTES:
            raise MessageRejected("malformed")
        if self._aes_key is None:
            self._check(query, "signature", now=now)
            return _message(_fields(body))
        sealed = _fields(body).get("Encrypt", "")
        self._check(query, "msg_signature", sealed, now=now)
        return _message(_fields(self._decrypted(self._aes_key(), sealed)))

    def answer(self, message: AccountMessage, text: str, *, now: datetime) -> bytes:
        """The passive reply in words, encrypted where the account is."""
        seconds = int(now.timestamp())
        reply = (
            f"<xml><ToUserName>{escape(message.openid)}</ToUserName>"
            f"<FromUserName>{escape(message.account)}</FromUserName>"
            f"<CreateTime>{seconds}</CreateTime><MsgType>text</MsgType>"
            f"<Content>{escape(text)}</Content></xml>"
        ).encode()
        if self._aes_key is None:
            return reply
        sealed = self._encrypted(self._aes_key(), reply)
        nonce = os.urandom(8).hex()
        signature = self._signature(str(seconds), nonce, sealed)
        return (
            f"<xml><Encrypt>{sealed}</Encrypt><MsgSignature>{signature}</MsgSignature>"
            f"<TimeStamp>{seconds}</TimeStamp><Nonce>{nonce}</Nonce></xml>"
        ).encode()

    def _check(self, query: Mapping[str, str], name: str, *more: str, now: datetime) -> None:
        timestamp = query.get("timestamp", "")
        right = self._signature(timestamp, query.get("nonce", ""), *more)
        given = query.get(name, "")
        if not hmac.compare_digest(right.encode(), given.encode(errors="replace")):
            raise MessageRejected("bad_signature")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            raise MessageRejected("malformed")
        if abs(now.timestamp() - int(timestamp)) >= FRESH_SECONDS:
            raise MessageRejected("stale")

    def _signature(self, *parts: str) -> str:
        joined = "".join(sorted((self._token(), *parts)))
        # SHA-1 is WeChat's; the secret is in what is hashed, not in the hash.
        return hashlib.sha1(joined.encode(errors="replace"), usedforsecurity=False).hexdigest()

    def _decrypted(self, key: bytes, sealed: str) -> bytes:
        try:
            content = base64.b64decode(sealed, validate=True)
            decryptor = Cipher(AES(key), CBC(key[:16])).decryptor()
            plain = decryptor.update(content) + decryptor.finalize()
        except (ValueError, binascii.Error):
            raise MessageRejected("undecryptable") from None
        padding = plain[-1] if plain else 0
        if not 1 <= padding <= _BLOCK or len(plain) < 20 + padding:
            raise MessageRejected("undecryptable")
        (length,) = struct.unpack(">I", plain[16:20])
        inner = plain[20:-padding]
        if length > len(inner):
            raise MessageRejected("undecryptable")
        if not hmac.compare_digest(inner[length:], self._appid):
            raise MessageRejected("wrong_addressee")
        return inner[:length]

    def _encrypted(self, key: bytes, content: bytes) -> str:
        plain = os.urandom(16) + struct.pack(">I", len(content)) + content + self._appid
        padding = _BLOCK - len(plain) % _BLOCK
        encryptor = Cipher(AES(key), CBC(key[:16])).encryptor()
        sealed = encryptor.update(plain + bytes([padding]) * padding) + encryptor.finalize()
        return base64.b64encode(sealed).decode()


def read_aes_key(data: bytes) -> bytes:
    """For the key's file. Raises ValueError for what is not of 43 characters."""
    text = data.decode().strip()
    key = base64.b64decode(text + "=")
    if len(text) != 43 or len(key) != 32:
        raise ValueError("an EncodingAESKey has 43 characters")
    return key


def _message(fields: Mapping[str, str]) -> AccountMessage:
    openid, kind = fields.get("FromUserName", ""), fields.get("MsgType", "")
    event, event_key = fields.get("Event", ""), fields.get("EventKey", "")
    if not openid or not kind or len(openid) > 128:
        raise MessageRejected("malformed")
    # An event has no MsgId; who, when and what tell two of them apart.
    said = fields.get("MsgId") or f"{fields.get('CreateTime', '')}:{event}:{event_key}"
    return AccountMessage(
        said=f"{openid}:{said}",
        openid=openid,
        account=fields.get("ToUserName", ""),
        kind=kind[:32],
        event=event[:64],
        event_key=event_key[:128],
        text=fields.get("Content", ""),
    )


def _fields(body: bytes) -> dict[str, str]:
    """The flat children of the root. No declarations: nothing is expanded or fetched."""
    found: dict[str, str] = {}
    path: list[str] = []

    def begin(name: str, _: object) -> None:
        path.append(name)
        if len(path) == 2:
            if name in found or len(found) >= _FIELDS:
                raise MessageRejected("malformed")
            found[name] = ""

    def end(_: str) -> None:
        path.pop()

    def say(text: str) -> None:
        if len(path) == 2:
            found[path[1]] += text

    def declare(*_: object) -> None:
        raise MessageRejected("malformed")

    # WeChat writes UTF-8. What a document says of its own encoding is any name that Python knows,
    # or none that it knows.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = say, declare
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError):
        raise MessageRejected("malformed") from None
    return found
