"""Which of WeChat Pay's refusals are certain, and what its answers hold.

Codes are compared without "_": the same one is spelled both ways on different pages.
Error answers are often unsigned: none of them is proof that money moved or did not.
"""

from typing import Any, Final

import orjson

from estation.outside.pay_channels import ChannelRefused, ChannelUnknown, CloseOutcome
from estation.outside.pay_channels.calling import Answer
from estation.outside.pay_channels.wechat_pay.transport import ErrorAnswer

OPENING_REFUSED: Final = frozenset(
    {
        "PARAMERROR",
        "APPIDMCHIDNOTMATCH",
        "MCHNOTEXISTS",
        "ORDERCLOSED",
        "SIGNERROR",
        "NOAUTH",
        "RULELIMIT",
        "ACCOUNTERROR",
        "NOTENOUGH",
        "OPENIDMISMATCH",
    }
)
"""Opening again under this number cannot bring money. Everything else might have: an order
already paid, a number used before (OUT_TRADE_NO_USED, INVALID_REQUEST 201), too many calls."""

REFUND_REFUSED: Final = {
    "PARAMERROR": "a field is wrong; the same request is wrong for ever",
    "RESOURCENOTEXISTS": "no such order at this merchant",
    "ORDERNOTEXIST": "no such order at this merchant",
    "MCHNOTEXISTS": "no such merchant",
    "NOAUTH": "the merchant may not refund by interface; somebody must change that first",
    "USERACCOUNTABNORMAL": "the payer's account is closed: the money needs another way",
}
"""Nothing was given back under this number, and why asking again brings nothing.

Not here, so unknown: SYSTEM_ERROR and every 5xx, FREQUENCY_LIMITED, 202 (it may have happened);
SIGN_ERROR (ours to mend, then the same number goes through); NOT_ENOUGH (not now).
INVALID_REQUEST is asked after: it says that the order has too little left, but also that this
number was used before.
"""

NOT_NOW: Final = {"NOTENOUGH": "NOT_ENOUGH"}
"""The merchant's balance is short today: the same number again when there is money."""

_PAYING: Final = frozenset({"FREQUENCYLIMITED", "USERPAYING", "RATELIMITEXCEEDED"})
_PAID: Final = frozenset({"ORDERPAID", "TRADEERROR"})


def object_in(answer: Answer) -> dict[str, Any]:
    """Raises ChannelUnknown when the answer is no JSON object."""
    try:
        value = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ChannelUnknown("UNREADABLE", "no JSON object", request_id=answer.request_id)
    return value


def opening_refusal(answer: Answer) -> ChannelRefused | ChannelUnknown:
    error = ErrorAnswer.of(answer)
    if 400 <= answer.status < 500 and error.plain_code in OPENING_REFUSED:
        return ChannelRefused(error.code, error.message, request_id=answer.request_id)
    return error.as_unknown()


def refund_refusal(answer: Answer) -> ChannelRefused | ChannelUnknown:
    error = ErrorAnswer.of(answer)
    if not 400 <= answer.status < 500:
        return error.as_unknown()
    if error.plain_code in REFUND_REFUSED:
        return ChannelRefused(error.code, error.message, request_id=answer.request_id)
    code = NOT_NOW.get(error.plain_code, error.code)
    return ChannelUnknown(code, error.message, request_id=answer.request_id)


def close_outcome(answer: Answer) -> CloseOutcome | None:
    """None: closed before, says an answer that may be unsigned. Raises ChannelUnknown.

    ALREADY_PAID is the channel's hint: ask `query` for the proof.
    """
    if answer.status in (200, 204):
        return CloseOutcome.CLOSED
    error = ErrorAnswer.of(answer)
    if error.plain_code in _PAYING:
        return CloseOutcome.TRY_LATER
    if error.plain_code in _PAID:
        return CloseOutcome.ALREADY_PAID
    if error.plain_code == "ORDERNOTEXIST":
        return CloseOutcome.NOT_FOUND
    if error.plain_code == "ORDERCLOSED":
        return None
    raise error.as_unknown()
