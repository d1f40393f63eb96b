"""JSON text that PostgreSQL's jsonb accepts, whatever a stranger put into it."""

import json
from typing import Any, Final

import msgspec
import orjson

_ENCODER: Final = msgspec.json.Encoder()


def jsonb_text(value: Any) -> str:
    """Compact JSON. What jsonb and text cannot hold (U+0000, lone surrogates) becomes U+FFFD."""
    try:
        text = orjson.dumps(value, default=str).decode()
    except TypeError:
        # Integers beyond 64 bits and lone surrogates: rare, so the slow way.
        return _forgiving(value)
    return _forgiving(value) if "\\u0000" in text else text


def struct_text(value: msgspec.Struct) -> str:
    """As `jsonb_text`, for a message with typed fields: written without a dict in between."""
    try:
        text = _ENCODER.encode(value).decode()
    except UnicodeEncodeError:
        return jsonb_text(msgspec.to_builtins(value))
    return jsonb_text(msgspec.to_builtins(value)) if "\\u0000" in text else text


def clean_text(text: str, limit: int) -> str:
    """At most `limit` characters that a text column accepts."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode()[:limit]


def _forgiving(value: Any) -> str:
    return json.dumps(_cleaned(value), ensure_ascii=False, default=str)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value, len(value))
    if isinstance(value, dict):
        return {_cleaned(str(key)): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return value
