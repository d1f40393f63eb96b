"""The staff's pages about incidents and refunds in a real browser: readable on a telephone and a
desk, accessible, quiet, and usable by keyboard alone."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import SCREENSHOTS, OpenContext
from tests.browser.staff_gallery import STAFF_PAGES
from tests.browser.test_gallery import ALL_RULES, violations, watched

pytestmark = pytest.mark.browser

WIDTHS = (375, 1280)


@pytest.fixture(scope="module")
def desks(chromium: Browser, gallery: str) -> Iterator[dict[int, tuple[Page, list[str]]]]:
    """One page for each width, for walking through all states."""
    pages = {}
    for width in WIDTHS:
        context = chromium.new_context(viewport={"width": width, "height": 900}, locale="zh-CN")
        page = context.new_page()
        pages[width] = (page, watched(page))
    yield pages
    for page, _ in pages.values():
        page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("state", STAFF_PAGES)
def test_a_staff_page_is_accessible_and_fits(
    desks: dict[int, tuple[Page, list[str]]], gallery: str, state: str, width: int
) -> None:
    page, complaints = desks[width]
    complaints.clear()

    page.goto(f"{gallery}/{state}")

    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{state}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page, ALL_RULES) == []
    assert complaints == []


def test_the_list_is_walked_by_keyboard_alone(open_context: OpenContext, gallery: str) -> None:
    page = open_context(width=1280).new_page()
    page.goto(f"{gallery}/staff-incidents")

    page.keyboard.press("n")
    page.keyboard.press("n")
    second = page.evaluate("document.activeElement.innerText")
    page.keyboard.press("f")

    assert second == "金额不符"
    assert page.evaluate("document.activeElement.name") == "state"


def test_what_is_overdue_says_so_in_a_word_beside_the_icon(
    open_context: OpenContext, gallery: str
) -> None:
    page = open_context(width=1280).new_page()

    page.goto(f"{gallery}/staff-incidents")

    row = page.get_by_role("row").filter(has_text="金额不符")
    assert "已超时限" in row.inner_text()
    assert "已升级" in row.inner_text()
    assert row.locator("svg.icon").count() >= 2
    assert "已超时限" not in page.get_by_role("row").filter(has_text="关闭后到账").inner_text()


def test_keys_lead_to_the_deeds_of_an_incident(open_context: OpenContext, gallery: str) -> None:
    page = open_context(width=1280).new_page()
    page.goto(f"{gallery}/staff-incident")

    page.keyboard.press("r")

    assert page.evaluate("document.activeElement.name") == "resolution"
    assert page.locator("[data-key=t]").inner_text() == "由我处理"
    assert page.locator("[data-key=q]").inner_text() == "向渠道查询"
