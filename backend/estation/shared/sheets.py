"""Tables as CSV that Chinese spreadsheets and settlement systems read, and that none runs."""

import csv
import io
from collections.abc import Iterable

BOM = "\ufeff"
"""Without it the common spreadsheet reads the Chinese as another encoding."""


def neutral_cell(text: str) -> str:
    """A CSV cell no spreadsheet will run as a formula (a leading apostrophe where needed)."""
    dangerous = text.lstrip(" \u3000\ufeff")[:1] in {"=", "+", "-", "@", "＝", "＋", "－", "＠"}
    return f"'{text}" if dangerous or text[:1] in {"\t", "\r", "\n"} else text


def csv_lines(rows: Iterable[Iterable[str]]) -> str:
    """RFC 4180 lines with CRLF."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
