"""What names a payer at a channel, sealed before anybody keeps it.

An openid or a buyer id says who paid what, and nothing of ours is decided by it: whoever keeps a
channel's words (inbox, incidents) keeps a token in its place, which only the holder of the
personal-data key reads. Whatever is derived from a message (its digest, its event key) is
derived from the clear words, before they are sealed.
"""

from binascii import Error as NotBase64
from binascii import a2b_base64, b2a_base64
from typing import Any, Final

from cryptography.exceptions import InvalidTag

from estation.shared.crypto import DataKey, Vault

MARK: Final = "sealed:1:"
"""What a sealed text begins with; base64 of `Vault.seal` follows, which names its key."""

_SHORTEST: Final = 37
"""Letters of base64, without its padding, of a nonce and a tag."""

NAMING: Final = frozenset(
    {
        # WeChat Pay, also in service providers' and combined orders
        "payer",
        "combine_payer_info",
        "openid",
        "sub_openid",
        "sp_openid",
        "unionid",
        "payer_client_ip",
        # Alipay, by notice, query and refund
        "buyer_id",
        "buyer_open_id",
        "buyer_logon_id",
        "buyer_user_id",
        "buyer_user_name",
        "buyer_email",
        "buyer_mobile",
        "buyer_cert_no",
        "open_id",
        "user_id",
        "logon_id",
    }
)
"""Fields whose whole value names the payer, whatever lies in it and however deep they stand."""


def seal_payers(vault: Vault, said: dict[str, Any]) -> None:
    """Put tokens in the place of what names a payer in a message, in place: one walk through
    what is read already. What is a token stays as it is."""
    # On the callback's path: no call for the many fields that are plain text.
    for name, value in said.items():
        if name in NAMING:
            said[name] = _sealed(vault, value)
        elif value.__class__ is dict:
            seal_payers(vault, value)
        elif value.__class__ is list:
            _seal_within(vault, value)


def is_sealed(value: object) -> bool:
    return isinstance(value, str) and value.startswith(MARK)


def open_payers(vault: Vault, said: Any) -> Any:
    """A copy with the clear texts again. A token that this key does not open stays."""
    if isinstance(said, dict):
        return {name: open_payers(vault, value) for name, value in said.items()}
    if isinstance(said, list | tuple):
        return [open_payers(vault, value) for value in said]
    if is_sealed(said):
        try:
            return vault.open(a2b_base64(said[len(MARK) :]))
        except (InvalidTag, NotBase64, ValueError):
            return said
    return said


def reseal_payers(vault: Vault, newest: DataKey, said: Any) -> Any:
    """A copy with the tokens of other keys made anew with this one. Raises InvalidTag, or its
    subclass KeyNotHeld, for a token that no key of ours opens."""
    if isinstance(said, dict):
        return {name: reseal_payers(vault, newest, value) for name, value in said.items()}
    if isinstance(said, list):
        return [reseal_payers(vault, newest, value) for value in said]
    if not is_sealed(said):
        return said
    try:
        sealed = a2b_base64(said[len(MARK) :], strict_mode=True)
    except (NotBase64, ValueError):
        return said
    return said if sealed.startswith(newest.mark) else _token(newest.seal(vault.keys.open(sealed)))


def tokens_of_others(newest: DataKey) -> str:
    """PostgreSQL's regular expression for a token of another key in a JSON document's text."""
    mark = b2a_base64(newest.mark, newline=False).decode("ascii").replace("+", r"\+")
    return rf"{MARK}(?!{mark})[A-Za-z0-9+/]{{{_SHORTEST},}}"


def _seal_within(vault: Vault, values: list[Any]) -> None:
    for one in values:
        if one.__class__ is dict:
            seal_payers(vault, one)
        elif one.__class__ is list:
            _seal_within(vault, one)


def _sealed(vault: Vault, value: Any) -> Any:
    if value.__class__ is dict:
        return {name: _sealed(vault, inner) for name, inner in value.items()}
    if value.__class__ is list:
        return [_sealed(vault, inner) for inner in value]
    if not value or value.__class__ is bool:
        return value
    text = value if value.__class__ is str else str(value)
    if text.startswith(MARK):
        return text
    return _token(vault.seal(text))


def _token(sealed: bytes) -> str:
    return MARK + b2a_base64(sealed, newline=False).decode("ascii")
