"""All files of a remote folder and of those below: from S3 several pages at once, and never all in memory."""

from __future__ import annotations

import contextlib
import datetime
import functools
import re
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from tsae.paths.facts import FileFacts
from tsae.paths.store import is_s3, remote_facts

LIST_REQUESTS = 16
"""Pages that are asked for at once; each takes a tenth of a second."""

PAGE_NAMES = 1000
"""Names of a page: the most that S3 gives."""

FIRST, LAST = 0x20, 0x7E
"""Characters between which ranges of names are halved: any other counts as the nearer of these."""

DIGITS = 6
"""How many characters of two names are looked at, from the first on in which they differ."""


ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?Z")


class _Range(NamedTuple):
    """Names after one, and up to another; None is the end."""

    after: str
    last: str | None


def find_files(files: Any, base: str) -> Iterator[tuple[str, FileFacts | None]]:
    """All files below a remote folder, in any order.

    Args:
        files: Its fsspec filesystem.
        base: Its path, as that filesystem writes it.

    Yields:
        Names relative to the folder, and what the store tells of each; None of what it calls a folder.
    """
    if is_s3(files) and not getattr(files, "version_aware", False):
        yield from _find_s3(files, base)
        return
    start = base.rstrip("/") + "/"
    for path, info in files.find(start, detail=True).items():
        if path.startswith(start):
            yield path[len(start) :], None if info["type"] == "directory" else remote_facts(info)


def _parse_quickly(files: Any) -> None:
    """Lets botocore read times as they nearly all are: its own parser takes three quarters of what reading a page costs."""
    with contextlib.suppress(AttributeError, ValueError):
        files.s3  # noqa: B018 - connects
        factory = files.session.get_component("response_parser_factory")
        factory.set_parser_defaults(timestamp_parser=_parse_time)


def _parse_time(value: Any) -> datetime.datetime:
    if isinstance(value, str) and ISO_TIME.fullmatch(value):
        return datetime.datetime.fromisoformat(value[:-1] + "+00:00")
    from botocore.utils import parse_timestamp

    parsed: datetime.datetime = parse_timestamp(value)
    return parsed


def _find_s3(files: Any, base: str) -> Iterator[tuple[str, FileFacts]]:
    """By ranges of names; where a request could be under way and is not, the range of the last one is halved."""
    _parse_quickly(files)
    bucket, prefix, _ = files.split_path(base)
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    read = functools.partial(_read_page, files, bucket, prefix)
    todo, pending = [_Range("", None)], dict[Future[Any], _Range]()
    with ThreadPoolExecutor(LIST_REQUESTS) as pool:
        while todo or pending:
            while todo and len(pending) < LIST_REQUESTS:
                part = todo.pop()
                pending[pool.submit(read, part)] = part
            for done in wait(pending, return_when=FIRST_COMPLETED).done:
                part = pending.pop(done)
                page, is_cut = done.result()
                yield from page
                if is_cut and (part.last is None or page[-1][0] < part.last):
                    todo += _parts(_Range(page[-1][0], part.last), len(pending) + len(todo) + 1 < LIST_REQUESTS)


def _read_page(files: Any, bucket: str, prefix: str, part: _Range) -> tuple[list[tuple[str, FileFacts]], bool]:
    """The first files of a range, and whether there may be more."""
    after = {"StartAfter": prefix + part.after} if part.after else {}
    answer = files.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE_NAMES, **after, **files.req_kw)
    found = [
        (entry["Key"][len(prefix) :], FileFacts(int(entry["Size"]), str(entry.get("ETag") or entry.get("LastModified") or "")))
        for entry in answer.get("Contents", [])
    ]
    inside = [entry for entry in found if part.last is None or entry[0] <= part.last]
    return inside, bool(answer.get("IsTruncated") and inside) and len(inside) == len(found)


def _parts(part: _Range, is_halved: bool) -> list[_Range]:
    """A range, or the halves of it, the second one first."""
    middle = _between(part.after, part.last) if is_halved else None
    return [part] if middle is None else [_Range(middle, part.last), _Range(part.after, middle)]


def _between(first: str, last: str | None) -> str | None:
    """A name between two, about half way; None if there is none that this finds."""
    end = chr(LAST + 1) if last is None else last
    same = next((i for i, (a, b) in enumerate(zip(first, end, strict=False)) if a != b), min(len(first), len(end)))
    middle = (_number(first[same:]) + _number(end[same:])) // 2
    name = first[:same] + _name(middle)
    return name if first < name < end else None


def _number(text: str) -> int:
    """The start of a text as a number, whose digits are its characters."""
    number = 0
    for i in range(DIGITS):
        number = number * (LAST + 2 - FIRST) + (min(max(ord(text[i]), FIRST), LAST + 1) - FIRST if i < len(text) else 0)
    return number


def _name(number: int) -> str:
    """The text of such a number."""
    text = ""
    for _ in range(DIGITS):
        number, digit = divmod(number, LAST + 2 - FIRST)
        text = chr(min(FIRST + digit, LAST)) + text
    return text
