"""Every citizen page that is built on replicated data says how old its copy is."""

import ast
import re
from collections.abc import Iterator

import pytest

from estation.settings import ROOT
from estation.shared.pages import H5

TEMPLATES = H5 / "templates"
REPLICATED = ("fees", "cases", "payments", "registry")
"""Folders of templates whose pages show bills, cases or units of a centre."""
FRAGMENTS = {
    "fees/history.html": "shows our own orders and refunds, not a centre's copy",
    "payments/verify.html": "shows our own receipt, not a centre's copy",
    "payments/status.html": "htmx puts it into the pay page, which says it",
    "payments/wallets.html": "buttons of the pages that say it",
}

LISTS = {"fees/home.html", "fees/list.html", "cases/list.html"}
"""Pages that show all there is of a person, and count it."""


def pages() -> list[str]:
    return [
        str(path.relative_to(TEMPLATES))
        for folder in REPLICATED
        for path in sorted((TEMPLATES / folder).glob("*.html"))
    ]


def renders() -> Iterator[tuple[str, str]]:
    """(template, the call's source) of every `render` of such a page."""
    for path in sorted((ROOT / "backend" / "estation").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if not any(f'"{folder}/' in text for folder in REPLICATED):
            continue
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "render"):
                continue
            names = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            for template in names:
                if template in pages():
                    yield str(template), ast.get_source_segment(text, node) or ""


def test_there_are_such_pages() -> None:
    assert {"fees/home.html", "fees/bill.html", "cases/case.html", "payments/pay.html"} <= set(
        pages()
    )
    assert set(FRAGMENTS) <= set(pages())


@pytest.mark.parametrize("page", [page for page in pages() if page not in FRAGMENTS])
def test_the_page_shows_the_age_of_its_copy(page: str) -> None:
    text = (TEMPLATES / page).read_text(encoding="utf-8")

    assert re.search(r"\{% block as_of %\}.*\{\{ as_of\(copy\) \}\}.*\{% endblock %\}", text, re.S)
    assert '{% from "shared/as_of.html" import as_of %}' in text


def test_every_handler_asks_for_the_age_of_the_rows_it_shows() -> None:
    found = list(renders())

    silent = [
        template
        for template, call in found
        if template not in FRAGMENTS
        and "copy_age(" not in call
        # A stranger's home page shows no rows.
        and not ("copy=None" in call and 'citizen=""' in call)
    ]
    assert silent == []
    assert {template for template, _ in found} == set(pages()) - {"payments/wallets.html"}


def test_lists_are_as_old_as_the_oldest_of_all_sources() -> None:
    """A bill that is not in the list may be one of a source that is late."""
    lists = [
        (template, call)
        for template, call in renders()
        if template in LISTS and "copy_age(" in call
    ]

    assert {template for template, _ in lists} == LISTS
    assert [template for template, call in lists if "of_all=True" not in call] == []


def test_every_json_answer_about_a_centres_rows_says_their_age() -> None:
    """Of the contexts that hold nothing but copies; payments answers about our own orders."""
    handlers = {
        node.name: ast.unparse(node)
        for folder in ("fees", "cases", "registry")
        for path in (ROOT / "backend" / "estation" / folder).glob("routes.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AsyncFunctionDef) and node.decorator_list
    }

    assert {"my_bills", "one_bill"} <= set(handlers)
    assert [name for name, source in handlers.items() if "copy_age(" not in source] == []
