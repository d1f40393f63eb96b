"""Every state of every citizen page in a real browser: readable, reachable, quiet."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page

from estation.shared.pages import H5, LARGE_PRINT_COOKIE
from tests.browser.conftest import SCREENSHOTS, OpenContext
from tests.browser.gallery import ORDER, PAGES

pytestmark = pytest.mark.browser

AXE = H5 / "node_modules" / "axe-core" / "axe.min.js"
STATES = sorted(PAGES)

SMALL_TARGETS = """least => [...document.querySelectorAll(
    'button, input:not([type=hidden]), summary, a.button, a.cell, a.back, .site-nav a, .site-name'
  )].filter(one => one.checkVisibility())
    .map(one => ({text: one.innerText || one.name, box: one.getBoundingClientRect()}))
    .filter(({box}) => box.height < least - 0.5 || box.width < least - 0.5)
    .map(({text, box}) => `${text} ${box.width}x${box.height}`)"""

TEXT_SIZES = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const sizes = new Set();
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || parent.closest('script,style,noscript,.hidden-text'))
      continue;
    sizes.add(parseFloat(getComputedStyle(parent).fontSize));
  }
  return [...sizes];
}"""

TIGHT_LINES = """() => [...document.querySelectorAll('main p, main li, main dd, main td')]
  .filter(one => one.checkVisibility() && one.innerText.trim() && !one.closest('.steps-compact'))
  .filter(one => {
    const style = getComputedStyle(one);
    return parseFloat(style.lineHeight) / parseFloat(style.fontSize) < 1.39;
  }).map(one => one.innerText)"""


ALL_RULES = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"
LARGE_RULES = "['color-contrast', 'target-size']"
"""Large print changes tokens only; the structure is the standard page's."""


Telephones = dict[bool, tuple[Page, list[str]]]
"""By large print: a page, and what its console complained of."""


@pytest.fixture(scope="module")
def telephones(chromium: Browser, gallery: str) -> Iterator[Telephones]:
    """One page in standard and one in large print, for walking through all states."""
    pages: Telephones = {}
    for large in (False, True):
        context = chromium.new_context(viewport={"width": 375, "height": 812}, locale="zh-CN")
        context.add_cookies(
            [{"name": LARGE_PRINT_COOKIE, "value": str(int(large)), "url": gallery}]
        )
        page = context.new_page()
        pages[large] = (page, watched(page))
    yield pages
    for page, _ in pages.values():
        page.context.close()


def violations(page: Page, rules: str) -> list[tuple[str, str, str]]:
    """(rule, impact, first offending element) of everything axe finds."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(f"axe.run({{runOnly: {rules}}})")
    return [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found["violations"]]


def watched(page: Page) -> list[str]:
    """Collects what the console complains about, CSP breaches included."""
    complaints: list[str] = []

    def listen(said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            complaints.append(said.text)

    def fail(error: Error) -> None:
        complaints.append(str(error))

    page.on("console", listen)
    page.on("pageerror", fail)
    return complaints


@pytest.mark.parametrize("large", [False, True], ids=["standard", "large-print"])
@pytest.mark.parametrize("state", STATES)
def test_a_page_is_accessible_and_fits_a_telephone(
    telephones: Telephones, gallery: str, state: str, large: bool
) -> None:
    page, complaints = telephones[large]
    complaints.clear()

    page.goto(f"{gallery}/{state}")

    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{state}{'-large' if large else ''}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.evaluate(SMALL_TARGETS, 60 if large else 44) == []
    assert min(page.evaluate(TEXT_SIZES)) >= (20 if large else 16)
    assert page.evaluate(TIGHT_LINES) == []
    assert violations(page, LARGE_RULES if large else ALL_RULES) == []
    assert complaints == []


def test_axe_finds_what_is_planted(open_context: OpenContext, gallery: str) -> None:
    page = open_context().new_page()
    page.goto(f"{gallery}/login")
    page.evaluate("document.querySelector('label').remove()")

    found = violations(page, ALL_RULES)

    assert [rule for rule, _, _ in found] == ["label"]


@pytest.mark.parametrize("state", ["bill-many", "home", "pay-qr", "receipt-many"])
@pytest.mark.parametrize("width", [320, 768, 1440])
def test_no_page_scrolls_sideways_at_other_widths(
    open_context: OpenContext, gallery: str, state: str, width: int
) -> None:
    page = open_context(width=width).new_page()

    page.goto(f"{gallery}/{state}")

    page.screenshot(path=SCREENSHOTS / f"{state}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_large_print_shows_its_greatest_letters_at_thirty_pixels_or_more(
    open_context: OpenContext, gallery: str
) -> None:
    page = open_context(large=True).new_page()

    page.goto(f"{gallery}/bill")

    assert max(page.evaluate(TEXT_SIZES)) >= 30


def test_without_javascript_the_pay_page_still_says_everything(
    open_context: OpenContext, gallery: str
) -> None:
    page = open_context(javascript=False).new_page()

    page.goto(f"{gallery}/pay-qr")

    assert page.get_by_role("img", name="微信付款码").is_visible()
    assert page.get_by_text("约 13 分钟").is_visible()
    assert page.get_by_text("14:30").is_visible()
    assert (
        page.get_by_role("link", name="我已付款，刷新状态").get_attribute("href") == f"/pay/{ORDER}"
    )
    assert page.get_by_role("button", name="支付宝扫码付款").is_visible()
    page.get_by_text("不想付了？取消这次付款").click()
    assert page.get_by_role("button", name="确认取消这次付款").is_visible()


def test_without_javascript_an_item_opens_to_its_legal_basis(
    open_context: OpenContext, gallery: str
) -> None:
    page = open_context(javascript=False).new_page()
    page.goto(f"{gallery}/bill")
    basis = page.get_by_text("财政部 税务总局 住房城乡建设部公告2024年第16号")
    assert not basis.is_visible()

    page.get_by_text("契税", exact=True).click()

    assert basis.is_visible()


def test_an_exempt_item_is_shown_as_exempt_in_words(
    open_context: OpenContext, gallery: str
) -> None:
    page = open_context().new_page()

    page.goto(f"{gallery}/bill")

    row = page.get_by_role("row").filter(has_text="印花税")
    assert "免征" in row.inner_text()
    assert "¥\xa00.00" in row.inner_text()


def test_the_countdown_runs_and_the_status_follows_the_server(
    open_context: OpenContext, gallery: str
) -> None:
    page = open_context().new_page()
    page.goto(f"{gallery}/pay-qr")
    counter = page.locator(".countdown")
    page.wait_for_function("document.querySelector('.countdown').textContent.includes('13:')")
    first = counter.inner_text()

    page.wait_for_url("**/pay-paid", timeout=20_000)  # the gallery answers 204, then "it is over"

    assert first.startswith("13:")
    assert page.get_by_role("heading", name="缴费成功").is_visible()


def test_without_wechats_bridge_the_page_says_so_and_offers_the_code(
    open_context: OpenContext, gallery: str
) -> None:
    page = open_context().new_page()
    page.goto(f"{gallery}/pay-jsapi")

    page.get_by_role("button", name="微信支付 ¥").click()

    assert "当前不在微信中" in page.locator("#jsapi-words").inner_text()
    assert page.get_by_role("button", name="微信扫码付款").is_visible()


def test_inside_wechat_the_bridge_gets_exactly_the_servers_parameters(
    open_context: OpenContext, gallery: str
) -> None:
    context = open_context()
    context.add_init_script(
        "window.WeixinJSBridge = {invoke(name, given, done) {"
        " window.asked = JSON.stringify([name, given]);"
        " done({err_msg: 'get_brand_wcpay_request:cancel'}); }};"
    )
    page = context.new_page()
    page.goto(f"{gallery}/pay-jsapi")

    page.get_by_role("button", name="微信支付 ¥").click()

    assert json.loads(page.evaluate("window.asked")) == [
        "getBrandWCPayRequest",
        {"appId": "wx8888888888888888", "package": "prepay_id=wx2016"},
    ]
    assert "您没有付款" in page.locator("#jsapi-words").inner_text()


def test_paper_shows_every_explanation_without_a_click(
    open_context: OpenContext, gallery: str
) -> None:
    page = open_context().new_page()
    page.goto(f"{gallery}/bill")

    page.emulate_media(media="print")

    assert page.get_by_text("发改价格规〔2016〕2559号").is_visible()
    assert not page.get_by_role("button", name="去付款").is_visible()


def test_the_keyboard_reaches_the_content_first(open_context: OpenContext, gallery: str) -> None:
    page = open_context().new_page()
    page.goto(f"{gallery}/fees")

    page.keyboard.press("Tab")

    assert page.evaluate("document.activeElement.className") == "skip-link"
