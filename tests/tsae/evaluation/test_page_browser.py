"""The report's page in a real browser: no network, no serious finding on accessibility, phone width, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser import serious
from tsae.evaluation import evaluate

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(
    low_archive: Path, archive_dir: Path, signs_dir: Path, classifier: Any, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Of one archive, and of two."""
    folder, found = tmp_path_factory.mktemp("pages"), []
    for name, archives in (("one", [low_archive]), ("two", [low_archive, archive_dir])):
        done = evaluate([str(archive) for archive in archives], str(signs_dir), classifier, str(folder / name))
        found.append(Path(done.page or ""))
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_readable_for_all_and_asks_nobody(browser: Any, pages: list[Path], width: int, scheme: str) -> None:
    for path in pages:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page, asked = context.new_page(), list[str]()
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(path.as_uri())
        for details in page.query_selector_all("details:not([open]) > summary"):
            details.click()
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("Array.from(document.images).every((image) => image.complete && image.naturalWidth)")
        assert serious(page) == []
        context.close()
