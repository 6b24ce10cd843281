"""Draws docs/page.png, the page at `/` of `surelock serve` after a run and the same run with locking off.

python docs/page.py [--out docs/page.png] [--width 1280] [--height 800] [--dark] [--step 44]

Needs playwright, and Chromium at the path in CHROMIUM (default /usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from surelock import LLM
from surelock.server.run import Server
from surelock.server.service import Service
from surelock.server.settings import ServerSettings


@contextmanager
def served() -> Iterator[str]:
    """The address of a server with the embedded model."""
    server = Server(Service(LLM(device="cpu"), ServerSettings(port=0)))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield server.address
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    """Run the prompt that is there, compare it, go to a step and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "page.png")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--step", type=int, default=44)
    parser.add_argument("--seed", default="1")
    arguments = parser.parse_args()
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(
            viewport={"width": arguments.width, "height": arguments.height},
            color_scheme="dark" if arguments.dark else "light",
        )
        page.goto(address)
        page.get_by_label("Seed").fill(arguments.seed)
        page.get_by_role("button", name="Run", exact=True).click()
        compare = page.get_by_role("button", name="Run with locking off")
        expect(compare).to_be_enabled(timeout=120_000)
        compare.click()
        expect(page.get_by_role("button", name="Save trace")).to_be_enabled(timeout=120_000)
        page.get_by_role("slider", name="step").fill(str(arguments.step))
        page.screenshot(path=arguments.out)
        browser.close()


if __name__ == "__main__":
    main()
