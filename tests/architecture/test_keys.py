"""Keys of the staff pages: none means two things, and each that a page names works."""

import re
from pathlib import Path

import pytest

STAFF = Path(__file__).parents[2] / "h5" / "templates" / "staff"
WALKING = {"n", "p"}
"""The next row and the one before it, on every page."""


@pytest.mark.parametrize("page", sorted(STAFF.glob("*.html")), ids=lambda page: page.name)
def test_the_keys_a_page_names_are_those_it_has_and_none_walks_the_rows(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    named = re.findall(r"<kbd>([a-z])</kbd>", html)
    has = re.findall(r'data-key="([a-z])"|choice\(.*, "([a-z])"\) }}', html)
    has = [plain or by_macro for plain, by_macro in has]

    assert not WALKING & set(has)
    assert set(named) - WALKING <= set(has)
    assert set(has) <= set(named)
