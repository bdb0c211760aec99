"""The page in a real browser: Debian's Chromium, from a plain file server. `python -m pytest -m browser` runs these."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tsae
from tests.browser import serious
from tests.tsae.web.file_server import served
from tests.tsae.web.many import write_many
from tsae.cli import main
from tsae.web import export_web

pytestmark = pytest.mark.browser

MANY = 100_000
READY = "document.querySelectorAll('[role=gridcell]:not(.waiting)').length >= 12 && !document.querySelector('.waiting')"

PIXELS_OF_CELLS = """() => Object.fromEntries(Array.from(document.querySelectorAll('[role=gridcell]'), (cell) => [
    cell.title, btoa(String.fromCharCode(...cell.firstChild.getContext('2d').getImageData(0, 0, 32, 32).data))]))"""


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a URL in a window of its own; an error in the page fails the test."""
    contexts, faults = [], []

    def open_it(url: str, is_ready: str = READY, routes: dict[str, Any] | None = None, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        for pattern, handler in (routes or {}).items():
            context.route(pattern, handler)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(url)
        page.wait_for_function(is_ready)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture(scope="module")
def small(archive_dir: Path, signs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The export of the archive of 40 signs, with originals."""
    folder = tmp_path_factory.mktemp("web") / "small"
    export_web(str(archive_dir), str(folder), originals=str(signs_dir))
    with served(folder) as (url, _):
        yield url


@pytest.fixture(scope="module")
def many_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("many") / "archive"
    write_many(place, MANY)
    return place


@pytest.fixture(scope="module")
def many(many_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The export of an archive of 100,000 records."""
    folder = tmp_path_factory.mktemp("web") / "many"
    export_web(str(many_archive), str(folder))
    with served(folder) as (url, _):
        yield url


def shown(page: Any) -> dict[str, np.ndarray]:
    """The pixels of the cells in view, by key."""
    cells = page.evaluate(PIXELS_OF_CELLS)
    return {key: np.frombuffer(base64.b64decode(data), np.uint8).reshape(32, 32, 4) for key, data in cells.items()}


def check_pixels(page: Any, archive_path: Path, most: int = 0) -> None:
    cells = shown(page)
    with tsae.open_archive(str(archive_path)) as archive:
        images = archive.decode(cells)
    for image, cell in zip(images, cells.values(), strict=True):
        assert np.abs(image.astype(int) - cell[..., :3]).max() <= most
        assert (cell[..., 3] == 255).all()


def keys_in_order(page: Any) -> list[str]:
    """Of the cells in view, by row and column."""
    return list(
        page.evaluate(
            """() => Array.from(document.querySelectorAll('[role=gridcell]')).sort((a, b) => a.dataset.index - b.dataset.index)
            .map((cell) => cell.title)"""
        )
    )


def count_of(page: Any, text: str) -> None:
    page.wait_for_function(f"document.getElementById('count').textContent === {json.dumps(text)}")


def test_pixels_are_those_of_python(small: str, archive_dir: Path, open_page: Any) -> None:
    check_pixels(open_page(small), archive_dir)


def test_lossless_images_come_back_exactly(many: str, many_archive: Path, open_page: Any) -> None:
    page = open_page(f"{many}?quality=lossless&at=500")
    page.wait_for_function(READY)
    check_pixels(page, many_archive)


def test_the_seed_is_within_a_grey_level(tmp_path: Path, open_page: Any) -> None:
    write_many(tmp_path / "archive", 40, drawn=40, model="seed-8x8x8")
    export_web(str(tmp_path / "archive"), str(tmp_path / "web"))
    with served(tmp_path / "web") as (url, _):
        check_pixels(open_page(url), tmp_path / "archive", most=1)


def test_a_server_without_ranges_will_do(archive_dir: Path, tmp_path: Path, open_page: Any) -> None:
    export_web(str(archive_dir), str(tmp_path / "web"))
    with served(tmp_path / "web", ranges=False) as (url, asked):
        page = open_page(url)
        check_pixels(page, archive_dir)
        assert sum("/keys/" in path for path in asked) == 1


def test_the_first_view_of_many_reads_little(many: str, open_page: Any) -> None:
    page = open_page(many)
    count_of(page, "100,000 images")
    assert page.title() == "archive: 100,000 images"
    assert page.evaluate("performance.getEntriesByType('resource').filter(({name}) => name.includes('/keys/')).length") == 1
    assert page.locator("[role=grid]").get_attribute("aria-rowcount") == str(-(-MANY // 11))


def test_scrolling_to_the_end_and_back(many: str, many_archive: Path, open_page: Any) -> None:
    page = open_page(many)
    page.evaluate("document.querySelector('.grid').scrollTop = 1e9")
    page.wait_for_function(f"document.querySelector('[data-index=\"{MANY - 1}\"]') !== null && {READY}")
    check_pixels(page, many_archive)
    page.wait_for_function("location.search.includes('at=99')")
    page.evaluate("document.querySelector('.grid').scrollTop = 0")
    page.wait_for_function("document.querySelector('[data-index=\"0\"]') !== null && !location.search.includes('at=')")
    assert len(page.query_selector_all("[role=gridcell]")) < 200


def test_a_place_can_be_shared(many: str, open_page: Any) -> None:
    page = open_page(f"{many}?at=70000&size=l")
    assert (
        69_950
        <= min(map(int, page.evaluate("Array.from(document.querySelectorAll('[role=gridcell]'), c => c.dataset.index)")))
        <= 70_000
    )
    assert page.locator("#size").input_value() == "l"


def test_search_filter_and_sort(many: str, many_archive: Path, open_page: Any) -> None:
    page = open_page(many)
    with tsae.open_archive(str(many_archive)) as archive:
        table = archive.to_table().select(["key", "label", "psnr_db"]).to_pydict()
    page.fill("#q", "0077")
    expected = [key for key in table["key"] if "0077" in key]
    count_of(page, f"{len(expected):,} of 100,000 images")
    page.wait_for_function(READY)
    assert keys_in_order(page)[:20] == expected[:20]
    page.fill("#q", "stop/*1.png")
    expected = [key for key in table["key"] if re.fullmatch(r"stop/.*1\.png", key)]
    count_of(page, f"{len(expected):,} of 100,000 images")
    page.fill("#q", "")
    page.select_option("#label", "stop")
    rows = [i for i, label in enumerate(table["label"]) if label == "stop"]
    count_of(page, f"{len(rows):,} of 100,000 images")
    page.select_option("#sort", "psnr")
    page.wait_for_function(READY)
    worst = sorted(rows, key=lambda i: (table["psnr_db"][i], i))
    page.wait_for_function(f"document.querySelector('[data-index=\"0\"]')?.title === {json.dumps(table['key'][worst[0]])}")
    assert keys_in_order(page)[:20] == [table["key"][i] for i in worst[:20]]
    assert "label=stop" in page.url
    assert "sort=psnr" in page.url
    page.go_back()
    page.wait_for_function("document.getElementById('sort').value === ''")
    page.click("#reset")
    count_of(page, "100,000 images")


def test_filter_by_quality_and_psnr(many: str, many_archive: Path, open_page: Any) -> None:
    with tsae.open_archive(str(many_archive)) as archive:
        table = archive.to_table().select(["key", "coding", "lossless", "psnr_db"]).to_pydict()
    rows = list(zip(table["key"], table["coding"], table["lossless"], table["psnr_db"], strict=True))
    page = open_page(many)
    page.select_option("#quality", "7")
    expected = [key for key, coding, lossless, _ in rows if coding == 8 and lossless is None]
    count_of(page, f"{len(expected):,} of 100,000 images")
    page.wait_for_function(READY)
    assert keys_in_order(page)[:20] == expected[:20]
    page.select_option("#quality", "lossless")
    count_of(page, f"{sum(lossless is not None for _, _, lossless, _ in rows):,} of 100,000 images")
    page.select_option("#quality", "")
    page.fill("#min", "30")
    page.fill("#max", "34.5")
    count_of(page, f"{sum(30 <= psnr_db < 34.5 for *_, psnr_db in rows):,} of 100,000 images")


def test_sorted_by_key(signs_dir: Path, tmp_path: Path, open_page: Any) -> None:
    """Also where later commits added keys between the others."""
    for step, key in (
        ("first", "{}/b\u00e4.png"),
        ("second", "{}/a.png"),
        ("third", "{}/\U0001f6d1.png"),
        ("fourth", "{}/\uff21.png"),
    ):
        for number, image in enumerate(sorted(signs_dir.rglob("*.png"))[:8]):
            path = tmp_path / "in" / key.format(f"{step[0]}{number}" if step == "first" else f"g{number}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.read_bytes())
        assert main(["compress", str(tmp_path / "in"), str(tmp_path / "archive"), "--model=seed-8x8x8"]) == 0
    export_web(str(tmp_path / "archive"), str(tmp_path / "web"))
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        keys = list(archive)
    assert keys != sorted(keys)
    with served(tmp_path / "web") as (url, _):
        for sort, expected in (("key", sorted(keys)), ("-key", sorted(keys, reverse=True))):
            page = open_page(f"{url}?sort={sort}")
            count_of(page, "32 images")
            page.wait_for_function(f"document.querySelector('[data-index=\"0\"]').title === {json.dumps(expected[0])}")
            assert keys_in_order(page) == expected
        page = open_page(f"{url}?sort=key&q=*/a.png", READY.replace("12", "8"))
        count_of(page, "8 of 32 images")
        page.wait_for_function(READY.replace("12", "8"))  # the count is there a frame before the cells
        assert keys_in_order(page) == [key for key in sorted(keys) if key.endswith("/a.png")]


def test_one_image_has_an_address(small: str, archive_dir: Path, open_page: Any) -> None:
    page = open_page(small)
    page.click("[data-index='3']")
    page.wait_for_selector("dialog[open] .channels li")
    with tsae.open_archive(str(archive_dir)) as archive:
        keys = list(archive.keys())
        record = archive.record(keys[3])
    assert page.locator("#detail-key").inner_text() == keys[3]
    assert page.locator("figure").count() == 3
    assert f"{len(record.streams[0])} B" in page.locator("dl").inner_text()
    bits = sum(map(float, page.locator(".channels li span:last-child").all_inner_texts()))
    assert len(record.streams[0]) - 3 <= bits + 0.05 * 32 <= len(record.streams[0]) + 3
    other = open_page(page.url, "document.querySelector('dialog[open] figure') !== null")
    assert other.locator("#detail-key").inner_text() == keys[3]
    other.check("#crisp")
    assert "pixels=1" in other.url
    page.go_back()
    page.wait_for_selector("dialog", state="hidden")


def test_keyboard_alone(small: str, open_page: Any) -> None:
    page = open_page(small)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "gridcell":
            break
    focused = "Number(document.activeElement.dataset.index)"
    columns = int(page.locator("[role=grid]").get_attribute("aria-colcount"))
    assert page.evaluate(focused) == 0
    for key, expected in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + columns),
        ("Home", columns),
        ("Control+End", 39),
        ("Control+Home", 0),
    ):
        page.keyboard.press(key)
        assert page.evaluate(focused) == expected, key
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] figure")
    first = page.locator("#detail-key").inner_text()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.getElementById('detail-key').textContent !== {json.dumps(first)}")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    page.wait_for_function(f"{focused} === 2")
    assert "open=" not in page.url


def test_the_keyboard_comes_to_what_is_in_view(many: str, open_page: Any) -> None:
    page = open_page(many)
    page.evaluate("document.querySelector('.grid').scrollTop = 90000")
    page.wait_for_function("document.querySelector('[data-index=\"0\"]') === null")
    page.focus("#theme")
    page.keyboard.press("Tab")
    place = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "gridcell"
    assert 0 < place < 800


def test_statistics(many: str, open_page: Any) -> None:
    page = open_page(f"{many}?view=stats", "document.querySelectorAll('.worst li').length === 24")
    page.wait_for_function("document.getElementById('stats').getAttribute('aria-busy') === 'false'")
    assert page.locator(".tile b").first.inner_text() == "100,000"
    page.locator("summary").first.click()
    page.locator("details a").first.click()
    page.wait_for_function(
        "!document.getElementById('images').hidden && document.getElementById('count').textContent.includes(' of ')"
    )
    assert "max=" in page.url


def hold_facts(held: list[Any]) -> dict[str, Any]:
    """Routes that let the first block of facts come, and nothing more until it is let go."""

    def hold(route: Any) -> None:
        start, end = route.request.headers["range"].removeprefix("bytes=").split("-")
        if start == "0" and int(end) < 50_000:
            route.continue_()
        else:
            held.append(route)

    return {"**/facts/*": hold}


def test_the_grid_keeps_the_focus_while_the_index_comes(many: str, open_page: Any) -> None:
    held: list[Any] = []
    page = open_page(many, routes=hold_facts(held))
    page.select_option("#sort", "psnr")
    count_of(page, "4,096 of 100,000 images so far; reading the index…")
    page.wait_for_function(READY)
    page.locator("[data-index='0']").focus()
    focused = "document.activeElement.title"
    key = page.evaluate(focused)
    for route in held:
        route.continue_()
    count_of(page, "100,000 images")
    assert page.evaluate(f"{focused} === {json.dumps(key)} || document.activeElement.matches('[role=grid]')")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.matches('[role=gridcell]')")


def test_statistics_stay_as_they_were_left(many: str, open_page: Any) -> None:
    """A table opened while the index comes stays open and focused, and what has not changed is not drawn again."""
    held: list[Any] = []
    page = open_page(many, routes=hold_facts(held))
    page.click("#to-stats")
    page.wait_for_function("document.querySelectorAll('.worst li').length === 24")
    assert page.locator(".tile b").first.inner_text() == "4,096"
    first, ready = (
        "document.querySelectorAll('summary')[1]",
        "document.getElementById('stats').getAttribute('aria-busy') === 'false'",
    )
    assert not page.evaluate(ready)
    page.evaluate(f"{first}.click(), {first}.focus(), document.getElementById('stats').scrollTop = 60")
    is_left_alone = f"[{first}.parentNode.open, document.activeElement === {first}, document.getElementById('stats').scrollTop]"
    assert page.evaluate(is_left_alone) == [True, True, 60]
    for route in held:
        route.continue_()
    page.wait_for_function(ready)
    assert page.locator(".tile b").first.inner_text() == "100,000"
    assert page.evaluate(is_left_alone) == [True, True, 60]

    page.wait_for_function("document.querySelectorAll('.worst li').length === 24")
    page.evaluate(f"{first}.isMarked = true")
    page.locator(".worst a").first.click()
    page.wait_for_selector("dialog[open] figure")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    assert page.evaluate(f"{first}.isMarked && {first}.parentNode.open && document.activeElement.matches('.worst a')")


@pytest.mark.parametrize("leave", ["document.getElementById('detail').close()", "history.back()"])
def test_the_focus_comes_back_to_worst_images_that_were_drawn_anew(leave: str, many: str, open_page: Any) -> None:
    held: list[Any] = []
    page = open_page(many, routes=hold_facts(held))
    page.click("#to-stats")
    page.wait_for_function("document.querySelectorAll('.worst li').length === 24")
    before = page.locator(".worst a").first.get_attribute("href")
    page.locator(".worst a").first.click()
    page.wait_for_selector("dialog[open] figure")
    for route in held:
        route.continue_()
    page.wait_for_function("document.getElementById('stats').getAttribute('aria-busy') === 'false'")
    assert page.locator(".worst a").first.get_attribute("href") != before
    page.evaluate(leave)
    page.wait_for_selector("dialog", state="hidden")
    page.wait_for_function("document.activeElement.matches('.worst a')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_accessible(scheme: str, width: int, small: str, open_page: Any) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    page = open_page(small, **options)
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")
    page.click("[data-index='0']")
    page.wait_for_selector("dialog[open] .channels li")
    assert serious(page) == []
    stats = open_page(f"{small}?view=stats", "document.querySelectorAll('.worst li').length === 24", **options)
    assert serious(stats) == []
    assert stats.evaluate("document.documentElement.scrollWidth") <= width


def test_a_damaged_record_costs_that_record(archive_dir: Path, tmp_path: Path, browser: Any) -> None:
    export_web(str(archive_dir), str(tmp_path / "web"))
    file = next((tmp_path / "web" / "streams").iterdir())
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    with served(tmp_path / "web") as (url, _):
        page = browser.new_page()
        page.goto(url)
        page.wait_for_function(READY)
        assert page.locator(".failed").count() == 1
        page.click("[data-index='0']")
        page.wait_for_selector("dialog[open] [role=alert]")
        assert "checksum" in page.locator("dialog [role=alert]").first.inner_text()
        page.close()


def test_the_wheel_brings_images(many: str, many_archive: Path, open_page: Any) -> None:
    """How smoothly is what benchmarks/page.py measures."""
    page = open_page(many)
    page.mouse.move(600, 500)
    for _ in range(4):
        page.mouse.wheel(0, 1500)
    page.wait_for_function("document.querySelector('.grid').scrollTop === 6000")
    page.wait_for_function(f"document.querySelector('[data-index=\"0\"]') === null && {READY}")
    check_pixels(page, many_archive)
    assert len(page.query_selector_all("[role=gridcell]")) < 200
