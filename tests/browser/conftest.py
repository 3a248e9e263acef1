"""A real browser before a real gateway with a real device.

Every page that a test opens is watched: a request to anywhere else, an error in the console or an
exception in the page fails the test, unless the test says that it provokes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.site import CHROMIUM_OPTIONS, Site, site_in
from tests.patience import PATIENCE

DESK = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
SMALL_PHONE = {"width": 360, "height": 640}


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium of this machine."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program is not None, "no chromium; scripts/test installs it"
    expect.set_options(timeout=1000 * PATIENCE)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with a device and a hub; tests that use it disturb nothing for others."""
    with ExitStack() as stack:
        yield site_in(tmp_path_factory.mktemp("site"), stack)


@dataclass
class Watched:
    """What a page did that it should not have; `expected` are parts of messages that may come."""

    origin: str
    expected: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("request", lambda request: self._asked(request.url))
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on(
            "console",
            lambda said: self._said(said.text) if said.type in ("error", "warning") else None,
        )

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != (
            self.origin
        ):
            self.complaints.append(f"asked {url}")

    def _said(self, text: str) -> None:
        if not any(part in text for part in self.expected):
            self.complaints.append(f"console: {text}")


Opener = Callable[..., Page]


@pytest.fixture
def opener(browser: Browser) -> Iterator[Opener]:
    """Opens pages: `opener(url, "#/sensors", viewport=PHONE, expected=["401"])`.

    `time` is what the browser takes for now, at first.
    """
    with ExitStack() as stack:
        watches: list[Watched] = []

        def open_page(
            url: str,
            where: str = "",
            *,
            expected: list[str] | None = None,
            time: str | None = None,
            **options: object,
        ) -> Page:
            context = browser.new_context(**{"viewport": DESK, "locale": "en-GB", **options})  # type: ignore[arg-type]
            stack.callback(context.close)
            context.set_default_timeout(1000 * PATIENCE)
            page = context.new_page()
            watches.append(Watched(url, expected or []))
            watches[-1].watch(page)
            if time is not None:
                page.clock.install(time=time)
            page.goto(f"{url}/_utils/{where}")
            return page

        yield open_page
    assert [text for watch in watches for text in watch.complaints] == []


@pytest.fixture(scope="session")
def axe() -> str:
    """The text of axe-core, which looks for what keeps people with disabilities out."""
    dashboard = Path(__file__).parents[2] / "agent" / "server" / "dashboard"
    return (dashboard / "node_modules" / "axe-core" / "axe.min.js").read_text()
