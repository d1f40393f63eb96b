"""The base of every business refusal."""

from typing import Any, ClassVar


class Refused(Exception):
    """A request we understood and will not carry out.

    `code` is stable and meant for programs; `message` is the sentence a citizen reads, the same
    for all of a class unless it names an amount.
    `details` is machine-readable help (field names, current values); never personal data.
    """

    code: ClassVar[str] = "refused"
    http_status: ClassVar[int] = 409
    message: str = "暂时无法办理，请稍后再试。"

    def __init__(self, **details: Any) -> None:
        super().__init__(self.code)
        self.details = details


class NotFound(Refused):
    """There is no such thing, or the asker may not know that there is."""

    code = "not_found"
    http_status = 404
    message = "没有找到您要的内容，请核对后重试。"


class InvalidInput(Refused):
    """The request cannot be read as what it should be; `details["field"]` says where."""

    code = "invalid_input"
    http_status = 422
    message = "填写的内容有误，请检查后重新提交。"


class TooManyRequests(Refused):
    """The asker has used up the allowance; `details["retry_after_seconds"]` says how long."""

    code = "too_many_requests"
    http_status = 429
    message = "操作过于频繁，请稍后再试。"
