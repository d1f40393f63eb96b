"""Words a person typed, to be kept: taken as they are or refused, never quietly changed."""

import unicodedata
from typing import Final

from estation.shared.errors import InvalidInput

_LINE_ENDS: Final = "\t\r\n"
_NO_TEXT: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class NotText(InvalidInput):
    """Control characters: U+0000, which no column of the database holds, and others that nobody
    sees, that end a line where there is one, or that turn what is read (U+202E)."""

    code = "not_text"
    message = "填写的内容里有看不见的控制字符，请删去后重新提交。"


def typed_text(field: str, text: str, *, most: int, least: int = 1, lines: bool = False) -> str:
    """`text` without the spaces around it. `lines`: it may have several, and tabs.

    Raises InvalidInput naming the field when it is not of `least` to `most` characters, and
    NotText.
    """
    said = text.strip(f" {_LINE_ENDS}")
    if not is_text(said, lines=lines):
        raise NotText(field=field)
    said = said.strip()
    if not least <= len(said) <= most:
        raise InvalidInput(field=field)
    return said


def is_text(text: str, *, lines: bool = False) -> bool:
    """True when a column holds it and a reader sees all of it. For a number that is looked up:
    what is no text is nobody's."""
    allowed = _LINE_ENDS if lines else ""
    return not any(
        unicodedata.category(char) in _NO_TEXT or char in _TURNING
        for char in text
        if char not in allowed
    )
