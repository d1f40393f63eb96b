"""Words somebody typed are kept as they are, or refused."""

from typing import Any

import pytest

from estation.shared.errors import InvalidInput
from estation.shared.typed import NotText, is_text, typed_text

NO_TEXT = [
    "\x00", "a\x00b", "\x07铃", "字\x1b[31m", "\x7f", "\x85", "x\u2028y", "\u202eabc", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (" 已转账 ", "已转账"),
        ("\r\n已转账\t\n", "已转账"),
        ("\u3000江财〔26〕8号", "江财〔26〕8号"),
        ("é🏠‍👨", "é🏠‍👨"),
        ("字" * 8, "字" * 8),
        (f"  {'字' * 8}  ", "字" * 8),
    ],
)
def test_text_is_kept_without_the_spaces_around_it(typed: str, kept: str) -> None:
    assert typed_text("note", typed, most=8) == kept


@pytest.mark.parametrize("typed", NO_TEXT)
@pytest.mark.parametrize("lines", [True, False])
def test_what_is_no_text_is_refused_by_the_name_of_its_field(typed: str, lines: bool) -> None:
    with pytest.raises(NotText) as refused:
        typed_text("note", typed, most=200, lines=lines)

    assert (refused.value.http_status, refused.value.details) == (422, {"field": "note"})
    assert not is_text(typed, lines=lines)


@pytest.mark.parametrize("typed", ["一\n二", "一\r\n二", "一\t二"])
def test_several_lines_are_text_only_where_there_may_be_several(typed: str) -> None:
    assert typed_text("note", typed, most=200, lines=True) == typed
    with pytest.raises(NotText):
        typed_text("note", typed, most=200)


@pytest.mark.parametrize(
    ("typed", "limits"),
    [
        ("", {}),
        (" \r\n\t\u3000", {}),
        ("字" * 9, {}),
        ("字", {"least": 2}),
    ],
)
def test_too_little_and_too_much_is_refused_and_nothing_is_cut_off(
    typed: str, limits: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        typed_text("note", typed, **{"most": 8, **limits})

    assert not isinstance(refused.value, NotText)
    assert refused.value.details == {"field": "note"}


def test_what_need_not_be_said_may_be_left_out() -> None:
    assert typed_text("note", "  ", most=8, least=0) == ""
