from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsae.archive import key_fault
from tsae.serve import http

OFFERED = ["image/png", "image/webp"]


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "image/png"),
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("IMAGE/WebP", "image/webp"),
        ("image/webp, */*;q=0.1", "image/webp"),
        ("image/avif,image/webp,image/png,*/*;q=0.8", "image/png"),
        ("image/png;q=0.5, image/webp;q=0.6", "image/webp"),
        ("image/png;q=0, */*", "image/webp"),
        ("image/*;q=0", None),
        ("text/html", None),
        ("image/png;q=x", "image/png"),
        (";;,,;q=,", None),
    ],
)
def test_the_format_follows_the_header(accept: str | None, chosen: str | None) -> None:
    assert http.choose_media_type(accept, OFFERED) == chosen


@given(st.text(max_size=200))
def test_any_header_can_be_read(header: str) -> None:
    assert http.choose_media_type(header, OFFERED) in [*OFFERED, None]
    assert http.accepts_gzip(header) in (True, False)
    assert http.is_known(header, '"x"') in (True, False)


@pytest.mark.parametrize(("header", "known"), [
    (None, False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("a", False),
])  # fmt: skip
def test_entity_tags_are_compared(header: str | None, known: bool) -> None:
    assert http.is_known(header, '"a"') is known


@given(st.text(min_size=1, max_size=50).filter(lambda key: not key_fault(key)))
def test_every_key_has_a_path_that_names_it(key: str) -> None:
    assert http.key_in_path(http.path_of("/images/", key).encode(), b"/images/") == key
    assert http.key_in_path(b"/images/" + quote(key, safe="").encode(), b"/images/") == key


@pytest.mark.parametrize("path", [b"/images", b"/other/a.png", b"/images/%FF", b"/%69mages/a.png"])
def test_what_is_no_path_of_a_key(path: bytes) -> None:
    assert http.key_in_path(path, b"/images/") is None


def test_a_key_is_decoded_once() -> None:
    assert http.key_in_path(b"/images/a%252Fb%2Fc.png", b"/images/") == "a%2Fb/c.png"
