"""Numbers that name units: their form."""

import re

_UNIT_CODE = re.compile(r"[0-9]{12}[GJZ][ABCDEFGHLNSWXY][0-9]{5}(?:[FLQ][0-9]{8}|W0{8})")


def valid_unit_code(text: str) -> bool:
    """GB/T 37346-2019; the code has no check digit."""
    return _UNIT_CODE.fullmatch(text) is not None
