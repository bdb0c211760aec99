"""The page of `tsae serve` in Chromium; `python -m pytest -m browser` runs these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tsae
from tests.tsae.web.test_page import READY, shown
from tsae.images import decode_image, resize

TOKEN = "0123456789abcdef"  # noqa: S105

DRAWN = """[...document.querySelectorAll("dialog figure canvas")].map(
    (canvas) => [...canvas.getContext("2d").getImageData(0, 0, 32, 32).data])"""

pytestmark = pytest.mark.browser


def check_pixels(page: Any, archive_dir: Path) -> None:
    page.wait_for_function(READY)
    cells = shown(page)
    with tsae.open_archive(str(archive_dir)) as archive:
        np.testing.assert_array_equal(archive.decode(cells), [cell[..., :3] for cell in cells.values()])


def test_the_same_pixels(server: Any, archive_dir: Path, signs_dir: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/?sort=psnr")
    check_pixels(page, archive_dir)
    page.click("[data-index='0']")
    page.wait_for_selector("dialog[open] .channels li")
    assert page.locator("dialog[open] figcaption").all_inner_texts() == ["Decoded", "Original", "Difference × 4"]
    drawn = page.evaluate(DRAWN)
    original = resize(decode_image((signs_dir / page.inner_text("#detail-key")).read_bytes()))
    np.testing.assert_array_equal(np.reshape(drawn[1], (32, 32, 4))[..., :3], original)
    page.close()


def test_the_page_asks_for_a_token(start: Any, archive_dir: Path, browser: Any) -> None:
    server = start(archive_dir, TSAE_TOKEN=TOKEN)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    for token in ("wrong", TOKEN):
        page.fill("input[name=token]", token)
        with page.expect_navigation():
            page.click("button:text('Open')")
    check_pixels(page, archive_dir)
    context.close()
