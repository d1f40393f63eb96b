"""Reading what forms of the payment pages send."""

from typing import Any

from estation.shared.errors import InvalidInput


def whole_number(form: Any, name: str) -> int:
    """A form field of 1 to 15 digits. Raises InvalidInput for anything else."""
    return whole_number_of(form.get(name, ""), name)


def whole_number_of(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidInput(field=name)
    return int(text)
