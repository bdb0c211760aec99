"""What is told of an error: problem details of RFC 9457 (`application/problem+json`)."""

from __future__ import annotations

import json
from typing import Any

from tsae.errors import TsaeError

MEDIA_TYPE = "application/problem+json"

TITLES = {
    "bad-request": (400, "The request cannot be understood"),
    "unauthorized": (401, "A token is needed"),
    "no-such-route": (404, "There is no such route"),
    "no-such-key": (404, "There is no image of that key"),
    "no-such-version": (404, "The image of that key is of another version"),
    "no-original": (404, "The original cannot be had"),
    "method-not-allowed": (405, "The route has no such method"),
    "not-acceptable": (406, "None of the formats is acceptable"),
    "too-large": (413, "The request is too large"),
    "misdirected": (421, "The server does not have that name"),
    "invalid": (422, "A parameter is not as described"),
    "bug": (500, "The server has a bug"),
    "busy": (503, "The server is busy"),
    "too-slow": (503, "The request took too long"),
    "not-ready": (503, "The archive is being opened"),
    "unavailable": (503, "The archive cannot be read"),
    "damaged": (503, "The image is damaged in the archive"),
}
"""Names of problems to their status and title; `type` is `urn:tsae:` and the name."""

RETRY_S = {"busy": 1, "too-slow": 5, "not-ready": 1, "unavailable": 10}
"""When to try again, of problems that may pass."""


UNREAD = ("too-large", "misdirected", "unauthorized", "busy", "too-slow")
"""Problems where a body may not have been read: what follows it on the connection cannot be found."""


class Problem(Exception):
    """Ends a request with an answer of its own."""

    def __init__(self, name: str, detail: str, **facts: Any) -> None:
        """Takes a name of `TITLES`, one line for people, and other members for machines."""
        super().__init__(detail)
        self.name, self.detail, self.facts = name, detail, facts
        self.status = TITLES[name][0]

    @property
    def headers(self) -> dict[str, str]:
        """That go with it."""
        headers = {"cache-control": "no-store"}
        if self.name in RETRY_S:
            headers["retry-after"] = str(RETRY_S[self.name])
        if self.name in UNREAD:
            headers["connection"] = "close"
        if self.name == "unauthorized":
            headers["www-authenticate"] = "Bearer"
        return headers

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        title = TITLES[self.name][1]
        return {"type": f"urn:tsae:{self.name}", "title": title, "status": self.status, "detail": self.detail, **self.facts}

    def body(self) -> bytes:
        """As the bytes of an answer."""
        return json.dumps(self.to_json()).encode()


def problem_of(error: TsaeError, *, is_gone: bool) -> Problem:
    """What to answer where data could not be had.

    Args:
        error: What was raised.
        is_gone: Whether the archive as a whole cannot be read.
    """
    detail = " ".join(str(error).split())
    return Problem("unavailable" if is_gone else "damaged", detail)
