"""Debian's Chromium, driven by Playwright, with what went wrong in the page collected.

Everything here waits for a condition and gives up after a bound; nothing sleeps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from api.security import COOKIE
from tests.api.conftest import Server
from tests.installation import PATIENCE_SECONDS

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"desktop": (1920, 1080), "mobile": (390, 844)}
SCHEMES = ("light", "dark")
BOTH = pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("mobile", "dark")])
"""Two widths and both colour schemes, in two windows."""
PATIENCE_MS = PATIENCE_SECONDS * 1000
"""Machines that build and test at once stall for seconds; a hang still fails."""

expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; a test is skipped where there is none, but never in CI."""
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{CHROMIUM} is missing")
        pytest.skip(f"{CHROMIUM} is missing: install Debian's chromium package")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGS, timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


@contextmanager
def window(
    browser: Browser,
    size: str = "desktop",
    scheme: str = "light",
    *,
    forgive: str = "",
    scripts: bool = True,
) -> Iterator[Page]:
    """A page of its own; fails the test when its console shows an error.

    Args:
        browser: The browser.
        size: A name of ``SIZES``.
        scheme: ``light`` or ``dark``.
        forgive: A pattern of console errors that the test provokes.
        scripts: Whether JavaScript runs.
    """
    width, height = SIZES[size]
    context: BrowserContext = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
        java_script_enabled=scripts,
        permissions=["clipboard-read", "clipboard-write"],
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def heard(message: ConsoleMessage) -> None:
        # Chromium also logs answers that the form asked for: a study that is not right yet.
        expected = "status of 422" in message.text or (forgive and re.search(forgive, message.text))
        if message.type == "error" and not expected:
            wrong.append(message.text)

    page.on("console", heard)
    yield page
    context.close()
    assert wrong == [], wrong


def look(page: Page, size: str, scheme: str) -> None:
    """Gives an open page another window and other colours, as their owner may at any time."""
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")


def enter(page: Page, server: Server, path: str = "/") -> None:
    """Opens a page as the admin, who has logged in before."""
    page.context.add_cookies([{"name": COOKIE, "value": str(server.admin), "url": server.url}])
    page.goto(server.url + path)


def log_in(page: Page, server: Server) -> None:
    """Logs in by the form, as the admin."""
    page.goto(f"{server.url}/")
    expect(page).to_have_url(re.compile(r"/login\?next="))
    page.get_by_label("Token").fill(str(server.admin))
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Studies", exact=True)).to_be_visible()


def inked(page: Page, figure: str) -> int:
    """How many pixels of a chart's picture are drawn on; 0 while there is none."""
    return int(
        page.evaluate(
            """(figure) => {
                const canvas = document.querySelector(`${figure} canvas`);
                if (!canvas?.width) return 0;
                const data = canvas.getContext("2d")
                    .getImageData(0, 0, canvas.width, canvas.height).data;
                let inked = 0;
                for (let i = 3; i < data.length; i += 4) inked += data[i] > 0;
                return inked;
            }""",
            figure,
        )
    )


def until(page: Page, condition: Callable[[], bool], what: str) -> None:
    """Waits until a condition of Python's holds; fails with ``what`` after a bound."""
    for _ in range(PATIENCE_MS // 50):
        if condition():
            return
        page.wait_for_timeout(50)  # lets the page live meanwhile; time.sleep would stop its events
    pytest.fail(f"waited in vain: {what}")
