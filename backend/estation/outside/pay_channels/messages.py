"""A channel's message as it came over the wire, kept whole and sealed, so that whoever reads it
later can believe it again: the headers its signature needs, and the body byte for byte.

Sealed as a whole: Alipay's form names the payer in clear words, and WeChat Pay's is only as closed
as a key that many hold.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from estation.shared.crypto import Vault

KEPT_HEADERS: Final = (
    "content-type",
    "wechatpay-serial",
    "wechatpay-signature-type",
    "wechatpay-timestamp",
    "wechatpay-nonce",
    "wechatpay-signature",
)
"""What `PayChannel.open_notice` reads of a channel's headers."""


class KeptMessage(NamedTuple):
    """A message with the moment at which it was believed: its age is told from that."""

    believed_at: datetime
    headers: dict[str, str]
    body: bytes


def sealed_message(
    vault: Vault, headers: Mapping[str, str], body: bytes, *, believed_at: datetime
) -> bytes:
    """On the callback's path. `headers` has lower-case names."""
    lines = [believed_at.isoformat()]
    for name in KEPT_HEADERS:
        if name in headers:
            lines.append(f"{name}: {headers[name]}")
    head = "\n".join(lines).encode("utf-8", "surrogateescape")
    return vault.seal_bytes(b"%b\n\n%b" % (head, body))


def opened_message(vault: Vault, sealed: bytes) -> KeptMessage:
    """Raises cryptography's InvalidTag when the bytes were altered or the key is another."""
    head, _, body = vault.open_bytes(sealed).partition(b"\n\n")
    believed_at, *lines = head.decode("utf-8", "surrogateescape").split("\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return KeptMessage(datetime.fromisoformat(believed_at), headers, body)
