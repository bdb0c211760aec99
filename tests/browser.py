"""Chromium for tests, and what its accessibility checker finds. `python -m pytest -m browser` runs the tests that need it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

CHROMIUM = os.environ.get("TSAE_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome") or ""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser; within the block no other event loop can run in this thread."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no Chromium: apt-get install chromium, or name one in TSAE_TEST_CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def serious(page: Any) -> list[str]:
    """What axe finds that is serious, each with where it is."""
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    serious = [violation for violation in violations if violation["impact"] in ("serious", "critical")]
    return [f"{violation['id']}: {violation['nodes'][0]['html'][:200]}" for violation in serious]
