"""What commands say on standard error: lines for people, or a JSON object a line for machines (`--log-json`).

Results go to standard output, and are not this module's. A JSON line has `time` (UTC, ISO 8601), `level` ("info", "warning" or
"error"), `event` (what kind of thing it tells), where a person is told something as well `message`, and the facts of the event
under their own names, with the unit at the end of a name where there is one.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

PREFIXES = {"error": "tsae: error: ", "warning": "tsae: "}
"""What lines for people start with, by level."""

_is_json = False


@contextlib.contextmanager
def json_lines(is_json: bool) -> Iterator[None]:
    """Within the block, what is said are JSON lines, if `is_json`."""
    global _is_json
    before, _is_json = _is_json, is_json
    try:
        yield
    finally:
        _is_json = before


def is_json() -> bool:
    """Whether what is said are JSON lines."""
    return _is_json


def say(event: str, message: str, level: str = "info", **facts: Any) -> None:
    """Tells people and machines.

    Args:
        event: What kind of thing it is, a word that does not change.
        message: One line.
        level: "info", "warning" or "error".
        facts: Only for machines; what JSON can hold.
    """
    if _is_json:
        tell(event, level, message=message, **facts)
    else:
        write_line(PREFIXES.get(level, "") + message)


def tell(event: str, level: str = "info", **facts: Any) -> None:
    """Tells machines only; see `say`."""
    if _is_json:
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        write_line(json.dumps({"time": time, "level": level, "event": event, **facts}))


def write_line(line: str, stream: TextIO | None = None) -> None:
    """Writes to a stream, None is standard error; where nobody takes it, the work goes on all the same."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr if stream is None else stream, flush=True)


def printable(key: str) -> str:
    """The key with control characters escaped: they could move the cursor of a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in key)


def counted(number: int, noun: str) -> str:
    """A number of things: `1 image`, `2,000 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
