"""JSON bodies: read strictly, refused with a stable code before anything else happens."""

from typing import Any, TypeVar

import msgspec
from sanic import Request

from estation.shared.errors import InvalidInput

MAX_JSON_BYTES = 16 * 1024

Body = TypeVar("Body", bound=msgspec.Struct)


class NotJson(InvalidInput):
    code = "not_json"
    http_status = 400
    message = "请求内容不是有效的 JSON。"


class WrongContentType(InvalidInput):
    code = "wrong_content_type"
    http_status = 415
    message = "请求的内容类型不正确。"


class BodyTooLarge(InvalidInput):
    code = "body_too_large"
    http_status = 413
    message = "提交的内容过大。"


def json_body(request: Request[Any, Any], kind: type[Body]) -> Body:
    """The request's JSON as this Struct.

    Raises WrongContentType, BodyTooLarge, NotJson, InvalidInput (naming the field, never its
    value: what a person typed may be personal).
    """
    if request.content_type.partition(";")[0].strip().lower() != "application/json":
        raise WrongContentType
    if len(request.body) > MAX_JSON_BYTES:
        raise BodyTooLarge
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.ValidationError as wrong:
        raise InvalidInput(problem=str(wrong)[:200]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotJson from None
