"""What the staff's payment pages share: the blueprint, who is acting, what may be asked for."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sanic import Blueprint

from estation.payments.persons import Person, is_same, person, shown_as
from estation.services import OnlineRequest
from estation.shared.errors import InvalidInput
from estation.shared.typed import NotText

bp = Blueprint("payment_staff_pages")

FINANCE = ("finance_clerk", "finance_checker")
CHECKER = "finance_checker"
OPERATOR = "operator"


def officer(request: OnlineRequest) -> str:
    """The officer behind the request, as traces and refunds name one."""
    viewer = request.ctx.viewer
    return shown_as(viewer.name, viewer.role)


def account(request: OnlineRequest) -> UUID | None:
    """The officer's account: what stays when the name or the post changes, and what tells
    namesakes apart."""
    staff_id: UUID | None = request.ctx.viewer.staff_id
    return staff_id


def is_me(request: OnlineRequest, shown: str, account_id: UUID | None) -> bool:
    """True when the officer behind the request is who did this."""
    return is_same(Person(shown, account_id), person(officer(request), account(request)))


def known(request: OnlineRequest, name: str, allowed: Mapping[str, Any], default: str) -> str:
    """A query argument that must be one of these words. Raises InvalidInput (D17)."""
    value = str(request.args.get(name, default))
    if value not in allowed:
        raise InvalidInput(field=name)
    return value


def page_number(request: OnlineRequest) -> int:
    text = str(request.args.get("page", "1"))
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise InvalidInput(field="page")
    return int(text)


def in_words_of(wrong: InvalidInput, words: str) -> str:
    """`words` say what a form needs; what nobody can see in it is told apart."""
    return wrong.message if isinstance(wrong, NotText) else words


def field(request: OnlineRequest, name: str) -> str:
    """A form's field; "" when it is missing."""
    return str(request.form.get(name, "")) if request.form else ""
