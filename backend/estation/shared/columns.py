"""Rows travel to PostgreSQL column by column, each column as one text parameter.

asyncpg looks at every element of a Python list with two abstract base classes, which costs more
than settling a payment; a JSON document costs PostgreSQL a hash table for every row. One text in
PostgreSQL's own spelling of an array costs neither: `unnest($1::text::uuid[], …)`.
"""

import functools
from collections.abc import Iterable, Sequence
from datetime import datetime

from estation.shared.jsonb import clean_text

_BETWEEN = '","'


def array_text(values: Sequence[str | None]) -> str:
    """An array literal of exactly these texts. What text cannot hold (U+0000, lone surrogates)
    becomes U+FFFD or "?", as in `jsonb_text`."""
    if not values:
        return "{}"
    try:
        joined = _BETWEEN.join(values)  # type: ignore[arg-type]
    except TypeError:
        return "{" + ",".join(map(_element, values)) + "}"  # some are null
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        joined = _BETWEEN.join(map(_escaped, values))  # type: ignore[arg-type]
    return f'{{"{_storable(joined)}"}}'


@functools.lru_cache(maxsize=1024)
def moment_text(moment: datetime) -> str:
    """For a column of moments. A payment's moment stands in four tables, and spelling it costs
    nine times what looking it up does; equal ones of other zones are the same moment."""
    return moment.isoformat()


def json_lines(documents: Iterable[str]) -> str:
    """Compact JSON texts as one, for `string_to_array($1, E'\\n')`: JSON has no bare line end."""
    return "\n".join(documents)


def _element(value: str | None) -> str:
    return "null" if value is None else f'"{_storable(_escaped(value))}"'


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _storable(text: str) -> str:
    return text if text.isascii() and "\x00" not in text else clean_text(text, len(text))
