"""What HTTP asks of an answer: formats, entity tags, the key in a path. Plain functions; knows no framework."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from urllib.parse import quote, unquote_to_bytes

IMMUTABLE = "public, max-age=31536000, immutable"
"""`Cache-Control` of what a URL with a version names."""

IMMUTABLE_PRIVATE = IMMUTABLE.replace("public", "private")
"""The same where a token is needed: caches that others share must not keep it."""

REVALIDATED = "no-cache"
"""`Cache-Control` of what may change: to be kept, but asked for again each time."""

MAX_ACCEPT_PARTS = 50
"""Parts of an `Accept` header that are looked at."""

Q_VALUE = re.compile(r"[01](\.[0-9]{0,3})?")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What goes out."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What of a request counts for how an answer goes out: headers, and whether `Accept` has chosen the format."""

    accept: str | None = None
    accept_encoding: str | None = None
    if_none_match: str | None = None
    is_negotiated: bool = False


def _accepted(header: str) -> list[tuple[str, float]]:
    """Media ranges and their weights."""
    ranges = []
    for part in header.split(",")[:MAX_ACCEPT_PARTS]:
        name, *parameters = (text.strip().lower() for text in part.split(";"))
        weights = [text[2:].strip() for text in parameters if text.startswith("q=")]
        weight = float(weights[0]) if weights and Q_VALUE.fullmatch(weights[0]) else 1.0
        ranges.append((name, min(weight, 1.0)))
    return ranges


def _weight(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """How welcome a media type is: the most specific range counts."""
    group = media_type.split("/")[0] + "/*"
    for name in (media_type, group, "*/*"):
        weights = [weight for found, weight in ranges if found == name]
        if weights:
            return max(weights)
    return 0.0


def choose_media_type(accept: str | None, offered: Sequence[str]) -> str | None:
    """The media type to answer with (RFC 9110, 12.5.1).

    Args:
        accept: The header; None or empty accepts all.
        offered: The first one wins a tie.

    Returns:
        One of those offered; None if none is acceptable.
    """
    if not accept or not accept.strip():
        return offered[0]
    ranges = _accepted(accept)
    weights = [_weight(media_type, ranges) for media_type in offered]
    return offered[weights.index(max(weights))] if max(weights) > 0 else None


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether an answer may be compressed."""
    ranges = dict(_accepted(accept_encoding or ""))
    return ranges.get("gzip", ranges.get("*", 0.0)) > 0


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Whether a client has what an entity tag names (RFC 9110, 13.1.2: compared weakly)."""
    if not if_none_match:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags


def key_in_path(raw_path: bytes, route: bytes) -> str | None:
    """The key that a path names: all after the route, percent-decoded once; `/` and `%2F` mean the same.

    Args:
        raw_path: As it was sent, without a query.
        route: Its start, such as `b"/images/"`.

    Returns:
        None if the path does not have that start as it is, or what follows is not UTF-8.
    """
    if not raw_path.startswith(route):
        return None
    try:
        return unquote_to_bytes(raw_path[len(route) :]).decode()
    except UnicodeDecodeError:
        return None


def path_of(route: str, key: str) -> str:
    """The path that names a key."""
    return route + quote(key, safe="/")
