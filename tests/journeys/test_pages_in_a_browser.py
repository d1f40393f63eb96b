"""A citizen's way through the pages in a real browser, with and without JavaScript."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request

from estation.inner.personas import BUYER
from estation.local import LocalPostgres, LocalValkey
from tests.browser.conftest import launched_chromium
from tests.journeys.online_side import DEED_TAX, OnlineSide, online_side

TELEPHONE = "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/148.0 Mobile Safari/537.36"
WECHAT = f"{TELEPHONE} MicroMessenger/8.0.50"

RECEIPT = re.compile(r"凭据号 (\S+).*?校验码\s+(\S+)", re.DOTALL)
"""A receipt's number and verification code, as they are read."""

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def side(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: LocalPostgres,
    migrated: str,
    valkey: LocalValkey,
) -> Iterator[OnlineSide]:
    postgres.create_database("online_pages", template=migrated)
    with online_side(
        tmp_path_factory.mktemp("pages"),
        postgres=postgres,
        database="online_pages",
        redis_url=valkey.url,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(side: OnlineSide) -> Iterator[Browser]:
    """After the servers: while it runs, no other event loop may start in this thread."""
    with launched_chromium() as browser:
        yield browser


@pytest.fixture
def telephone(chromium: Browser) -> Iterator[Page]:
    yield from _page(chromium, javascript=True)


@pytest.fixture
def plain(chromium: Browser) -> Iterator[Page]:
    """A browser without JavaScript."""
    yield from _page(chromium, javascript=False)


def _page(chromium: Browser, *, javascript: bool) -> Iterator[Page]:
    context: BrowserContext = chromium.new_context(
        viewport={"width": 375, "height": 812}, java_script_enabled=javascript, locale="zh-CN"
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    yield page
    context.close()


@pytest.fixture(scope="module")
def logged_in(chromium: Browser, side: OnlineSide) -> dict[str, object]:
    """The cookies of one login, for the journeys that are not about logging in."""
    side.bring_bill("0")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    log_in(page, side, goes_to="/fees")
    state = context.storage_state()
    context.close()
    return dict(state)


def log_in(page: Page, side: OnlineSide, *, goes_to: str) -> None:
    page.goto(f"{side.url}{goes_to}")
    assert page.url.endswith(f"/login?next={goes_to}")
    prove_phone_and_person(page, side)
    assert page.url == f"{side.url}{goes_to}"


def prove_phone_and_person(page: Page, side: OnlineSide) -> None:
    page.get_by_label("手机号").fill(BUYER.phone)
    page.get_by_role("button", name="获取短信验证码").click()
    assert page.get_by_text("138****0001").is_visible()
    page.get_by_label("短信验证码").fill(side.last_code(BUYER.phone))
    page.get_by_role("button", name="登录", exact=True).click()
    page.get_by_label("身份证号后六位").fill(BUYER.id_no[-6:])
    page.get_by_role("button", name="确认并进入").click()


def enter(page: Page, logged_in: dict[str, object]) -> None:
    page.context.add_cookies(logged_in["cookies"])  # type: ignore[arg-type]


def open_bill(page: Page, side: OnlineSide, number: str) -> None:
    side.bring_bill(number)
    page.goto(f"{side.url}/fees")
    page.get_by_role("link", name=f"存量房转移登记税费 {number}").click()


def test_without_javascript_a_citizen_logs_in_reads_pays_and_gets_receipts(
    plain: Page, side: OnlineSide, logged_in: dict[str, object]
) -> None:
    enter(plain, logged_in)
    open_bill(plain, side, "101")
    assert "免征" in plain.get_by_role("row").filter(has_text="印花税").inner_text()
    plain.get_by_role("button", name="去付款").click()
    plain.get_by_role("button", name="微信扫码付款").click()
    assert plain.get_by_role("img", name="微信付款码").is_visible()

    side.pay(side.newest_code())
    plain.get_by_role("link", name="我已付款，刷新状态").click()

    assert plain.get_by_role("heading", name="缴费成功").is_visible()
    plain.get_by_role("link", name="查看缴费凭据").click()
    assert plain.get_by_text("捌仟零玖拾伍元贰角肆分").is_visible()
    links = plain.get_by_role("link", name="下载 PDF").all()
    assert len(links) == 2
    for link in links:
        address = f"{side.url}{link.get_attribute('href')}"
        answer = plain.context.request.get(address)
        assert answer.headers["content-type"] == "application/pdf"
        assert answer.body().startswith(b"%PDF-")

    number, code = RECEIPT.findall(plain.locator("main").inner_text())[0]
    plain.goto(f"{side.url}/fees/history")
    plain.get_by_role("link", name="存量房转移登记税费 101").click()
    steps = plain.locator(".step-name").all_inner_texts()
    assert steps == ["下单", "付款", "入账", "凭据"]
    plain.goto(f"{side.url}/verify")
    plain.get_by_label("凭据号").fill(number)
    plain.get_by_label("校验码").fill(code.lower())
    plain.get_by_role("button", name="核对").click()
    assert plain.get_by_role("heading", name="凭据真实有效").is_visible()


def test_the_page_learns_by_itself_that_it_was_paid(
    telephone: Page, side: OnlineSide, logged_in: dict[str, object]
) -> None:
    enter(telephone, logged_in)
    open_bill(telephone, side, "102")
    telephone.get_by_role("button", name="去付款").click()
    telephone.get_by_role("button", name="支付宝扫码付款").click()
    assert telephone.get_by_role("img", name="支付宝付款码").is_visible()

    side.pay(side.newest_code())

    telephone.get_by_role("heading", name="缴费成功").wait_for(timeout=15_000)

    telephone.get_by_role("link", name="查看缴费凭据").click()
    number, code = RECEIPT.findall(telephone.locator("main").inner_text())[0]
    _scan_the_receipt(telephone, side, number, code)


def _scan_the_receipt(telephone: Page, side: OnlineSide, number: str, code: str) -> None:
    """Its QR code opens the answer, and no address that was asked for ever held the code."""
    requests: list[Request] = []
    telephone.on("request", lambda one: requests.append(one))  # noqa: PLW0108 -- as it must be

    telephone.goto("about:blank")
    telephone.goto(f"{side.url}/verify#no={number}&code={code}")
    telephone.get_by_role("heading", name="凭据真实有效").wait_for(timeout=15_000)
    shown = telephone.url
    telephone.goto(f"{side.url}/verify?no={number}&code={code}")
    stripped = telephone.url

    asked = [f"{one.url.partition('#')[0]} {one.all_headers()}" for one in requests]
    of_old_link = [one for one in asked if f"/verify?no={number}" in one]
    assert len(asked) > 4
    assert [one for one in asked if code in one] == of_old_link
    assert len(of_old_link) == 1, "nor is it named to what the page loads"
    assert shown == stripped == f"{side.url}/verify"


def test_changing_the_wallet_makes_the_old_code_void_and_tells_the_other_tab(
    telephone: Page, side: OnlineSide, logged_in: dict[str, object]
) -> None:
    enter(telephone, logged_in)
    open_bill(telephone, side, "103")
    telephone.get_by_role("button", name="去付款").click()
    telephone.get_by_role("button", name="微信扫码付款").click()
    other = telephone.context.new_page()
    other.goto(telephone.url)

    other.get_by_role("button", name="支付宝扫码付款").click()

    assert other.get_by_role("img", name="支付宝付款码").is_visible()
    telephone.get_by_text("付款方式已在另一个页面更改").wait_for(timeout=15_000)
    assert telephone.get_by_role("img", name="支付宝付款码").is_visible()


def test_a_second_tab_continues_the_open_payment_and_is_told(
    plain: Page, side: OnlineSide, logged_in: dict[str, object]
) -> None:
    enter(plain, logged_in)
    open_bill(plain, side, "104")
    second = plain.context.new_page()
    second.goto(plain.url)
    plain.get_by_role("button", name="去付款").click()

    second.get_by_role("button", name="去付款").click()

    assert second.url.startswith(plain.url)
    assert second.get_by_text("不会重复扣款").first.is_visible()


def test_a_cancelled_payment_can_be_begun_again(
    plain: Page, side: OnlineSide, logged_in: dict[str, object]
) -> None:
    enter(plain, logged_in)
    open_bill(plain, side, "105")
    plain.get_by_role("button", name="去付款").click()
    plain.get_by_role("button", name="微信扫码付款").click()

    plain.get_by_text("不想付了？取消这次付款").click()
    plain.get_by_role("button", name="确认取消这次付款").click()

    assert plain.get_by_role("heading", name="这次付款已取消").is_visible()
    plain.get_by_role("link", name="查看费用并重新付款").click()
    assert plain.get_by_role("button", name="去付款").is_visible()


def test_a_bill_revised_meanwhile_is_shown_anew_before_it_can_be_paid(
    plain: Page, side: OnlineSide, logged_in: dict[str, object]
) -> None:
    enter(plain, logged_in)
    open_bill(plain, side, "106")
    side.bring_bill("106", version=2, items=[DEED_TAX])

    plain.get_by_role("button", name="去付款").click()

    assert plain.get_by_text("请核对新的金额").is_visible()
    assert "¥\xa08,095.24" in plain.get_by_role("complementary").inner_text()
    plain.get_by_role("button", name="去付款").click()
    assert plain.get_by_role("heading", name="选择付款方式").is_visible()


def test_the_case_shows_its_flow_and_masks_the_other_party(
    plain: Page, side: OnlineSide, logged_in: dict[str, object]
) -> None:
    side.bring_case()
    enter(plain, logged_in)

    plain.goto(f"{side.url}/cases")
    plain.get_by_role("link", name="存量房转移登记").click()

    assert "纳税 办理中" in plain.get_by_role("list").filter(has_text="网签").inner_text().replace(
        "\n", " "
    )
    assert plain.get_by_text("周*国").is_visible()
    assert not plain.get_by_text("周建国").is_visible()
    assert plain.get_by_text("请缴清各自的税费").is_visible()


def test_large_print_stays_on_until_it_is_switched_off(plain: Page, side: OnlineSide) -> None:
    plain.goto(f"{side.url}/login")

    plain.get_by_role("button", name="大字版").click()

    assert plain.url == f"{side.url}/login"
    assert plain.locator("html").get_attribute("data-print") == "large"
    plain.goto(f"{side.url}/")
    plain.get_by_role("button", name="标准版").click()
    assert plain.locator("html").get_attribute("data-print") is None


def test_wrong_answers_are_told_at_their_field(plain: Page, side: OnlineSide) -> None:
    plain.goto(f"{side.url}/login")

    plain.get_by_label("手机号").fill("12345")
    plain.get_by_role("button", name="获取短信验证码").click()

    assert plain.get_by_label("手机号").get_attribute("aria-invalid") == "true"
    assert plain.get_by_text("请填写 11 位手机号码").is_visible()


def test_someone_elses_or_a_missing_page_says_so_in_chinese(
    plain: Page, side: OnlineSide, logged_in: dict[str, object]
) -> None:
    enter(plain, logged_in)

    answer = plain.goto(f"{side.url}/fees/0196a3b4-0000-7000-8000-000000000009")

    assert answer is not None
    assert answer.status == 404
    assert plain.get_by_text("没有找到这张缴费单").is_visible()


def test_screens_of_the_running_city_fit_a_telephone(
    telephone: Page, side: OnlineSide, logged_in: dict[str, object], tmp_path: Path
) -> None:
    enter(telephone, logged_in)
    for path in ("/", "/fees", "/cases"):
        telephone.goto(f"{side.url}{path}")

        assert telephone.evaluate("document.documentElement.scrollWidth") <= 375


WECHAT_BRIDGE = """window.WeixinJSBridge = {invoke(name, parameters, done) {
  window.payInWallet(parameters.package).then(() => done({err_msg: name === 'getBrandWCPayRequest'
    ? 'get_brand_wcpay_request:ok' : 'fail'}));
}};"""


def test_inside_wechat_a_citizen_logs_in_once_with_everything_and_pays_in_the_page(
    chromium: Browser, side: OnlineSide
) -> None:
    side.bring_bill("201")
    context = chromium.new_context(viewport={"width": 375, "height": 812}, user_agent=WECHAT)
    context.expose_function("payInWallet", functools.partial(side.pay))
    context.add_init_script(WECHAT_BRIDGE)
    page = context.new_page()
    page.set_default_timeout(10_000)
    side.forget_code_limits()

    page.goto(f"{side.url}/fees")
    page.get_by_role("link", name="微信登录").click()
    page.get_by_role("link", name=BUYER.name).click()
    prove_phone_and_person(page, side)
    assert page.url == f"{side.url}/fees"
    page.get_by_role("link", name="存量房转移登记税费 201").click()
    page.get_by_role("button", name="去付款").click()
    page.get_by_role("button", name="微信支付").click()
    page.get_by_role("button", name="微信支付 ¥").click()

    page.get_by_role("heading", name="缴费成功").wait_for(timeout=15_000)
    page.get_by_role("button", name="退出登录").click()
    page.goto(f"{side.url}/login")
    page.get_by_role("link", name="微信登录").click()
    page.get_by_role("link", name=BUYER.name).click()
    assert page.get_by_role("heading", name=f"{BUYER.name}，您好").is_visible()
    context.close()


def test_on_a_telephone_alipay_opens_takes_the_money_and_leads_back_to_the_result(
    chromium: Browser, side: OnlineSide, logged_in: dict[str, object]
) -> None:
    context = chromium.new_context(
        viewport={"width": 375, "height": 812}, user_agent=TELEPHONE, java_script_enabled=False
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    enter(page, logged_in)
    open_bill(page, side, "202")
    page.get_by_role("button", name="去付款").click()

    page.get_by_role("button", name="支付宝付款 在这部手机上付款").click()
    page.get_by_role("link", name="打开支付宝付款").click()
    assert page.url.startswith(side.sandbox_url)
    page.get_by_role("link", name=BUYER.name).click()
    page.get_by_role("button", name="支付").click()
    page.get_by_role("link", name="返回商户").click()

    assert page.get_by_role("heading", name="缴费成功").is_visible()
    assert page.url.startswith(f"{side.url}/pay/")
    context.close()
