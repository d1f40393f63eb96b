"""One headless Chromium and one gallery for the run."""

import contextlib
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from estation.shared.pages import LARGE_PRINT_COOKIE
from tests.browser.serving import serve
from tests.built import require_built_pages

CHROMIUM = Path("/usr/bin/chromium")
SCREENSHOTS = Path(__file__).with_name("screenshots")

OpenContext = Callable[..., BrowserContext]


@contextlib.contextmanager
def launched_chromium() -> Iterator[Browser]:
    """Skips where there is no Chromium.

    Playwright's driver keeps an event loop running in this thread: only sync tests in between.
    """
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def gallery() -> Iterator[str]:
    """The address of the gallery: every state of every citizen page."""
    require_built_pages()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = multiprocessing.get_context("spawn").Process(target=serve, args=(port,))
    program.start()
    try:
        _wait_for(port, program)
        yield f"http://127.0.0.1:{port}"
    finally:
        program.terminate()
        program.join(10)


@pytest.fixture
def open_context(chromium: Browser, gallery: str) -> Iterator[OpenContext]:
    """Opens contexts like a telephone's browser; `large=True` is the large-print switch."""
    opened: list[BrowserContext] = []

    def make(*, large: bool = False, width: int = 375, javascript: bool = True) -> BrowserContext:
        context = chromium.new_context(
            viewport={"width": width, "height": 812},
            java_script_enabled=javascript,
            locale="zh-CN",
            timezone_id="Asia/Shanghai",
        )
        if large:
            context.add_cookies([{"name": LARGE_PRINT_COOKIE, "value": "1", "url": gallery}])
        opened.append(context)
        return context

    yield make
    for context in opened:
        context.close()


def _wait_for(port: int, program: BaseProcess) -> None:
    for _ in range(600):
        if not program.is_alive():
            raise RuntimeError(f"the gallery ended with {program.exitcode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the gallery does not answer")
