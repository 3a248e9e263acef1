"""The dashboard: how large it is, how soon it can be used, and what an open page costs the agent.

Before a real gateway with a MicroPython board and a hub, in Chromium whose processor is slowed four
times. It can be used when the overview shows what the agent said and the browser has nothing left
to do. The memory is the agent's resident one while a page follows a sensor, less what it had before
any page was opened.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import ExitStack
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from agent.server.pages import BUILT
from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.processes import resident_mib
from tests.browser.site import CHROMIUM_OPTIONS, DEVICE, Site, site_in

SIZE_TARGET = Target(at_most=150.0)
MEMORY_TARGET = Target(at_most=4.0)
SLOWER = 4
WATCHED_SECONDS = 20.0
QUICK_WATCHED_SECONDS = 2.0

_SETTLED = 3.0
_PATIENCE = 120_000  # milliseconds
_USABLE = """
new MutationObserver((_, observer) => {
    if (!document.querySelector(".pipeline")) return;
    observer.disconnect();
    requestIdleCallback(() => { globalThis.usableAt = performance.now(); });
}).observe(document, {childList: true, subtree: true});
"""


async def run(options: Options) -> list[Row]:
    program = shutil.which("chromium")
    if program is None or not BUILT.exists():
        raise BenchError("Chromium or the dashboard's build is missing; scripts/bench makes both")
    slowed: list[float] = []
    full: list[float] = []
    memory: list[float] = []
    watched = QUICK_WATCHED_SECONDS if options.quick else WATCHED_SECONDS
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        for number in range(options.rounds):
            options.note(f"round {number + 1} of {options.rounds}")
            folder = options.folder / str(number)
            folder.mkdir()
            with ExitStack() as stack:
                site = await asyncio.to_thread(site_in, folder, stack)
                memory.append(await _memory(browser, site, watched))
                slowed.append(await _usable(browser, site.url, SLOWER))
                full.append(await _usable(browser, site.url, 1))
        await browser.close()
    return [
        Row("the dashboard, all of it, gzipped", "KiB", [_size()], target=SIZE_TARGET),
        Row(f"  until it can be used, processor {SLOWER} times slower", "ms", slowed),
        Row("  until it can be used", "ms", full),
        Row("  agent's memory with a page open", "MiB", memory, target=MEMORY_TARGET),
    ]


def _size() -> float:
    return sum(path.stat().st_size for path in Path(BUILT).rglob("*.gz")) / 1024


async def _usable(browser: Browser, url: str, slower: int) -> float:
    """Milliseconds from the start of the navigation, with nothing in the browser's cache."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.add_init_script(_USABLE)
    developer = await context.new_cdp_session(page)
    await developer.send("Emulation.setCPUThrottlingRate", {"rate": slower})
    await page.goto(f"{url}/_utils/")
    await page.locator(".pipeline").wait_for(timeout=_PATIENCE)
    while (moment := await page.evaluate("globalThis.usableAt")) is None:
        await asyncio.sleep(0.05)
    await context.close()
    return float(moment)


async def _memory(browser: Browser, site: Site, watched: float) -> float:
    await asyncio.sleep(_SETTLED)
    before = resident_mib(site.agent.pid)
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{site.url}/_utils/#/sensors?device={DEVICE}&sensor=temperature")
    await page.get_by_text("live", exact=True).wait_for(timeout=_PATIENCE)
    await asyncio.sleep(watched)
    grown = resident_mib(site.agent.pid) - before
    await context.close()
    return grown
