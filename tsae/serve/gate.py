"""What every request passes before and after its route: token, limits of number, size and time, HEAD, counting. Plain ASGI."""

from __future__ import annotations

import hmac
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from tsae import log
from tsae.serve.metrics import Metrics
from tsae.serve.options import Limits, ServeOptions, is_number
from tsae.serve.problems import MEDIA_TYPE, Problem
from tsae.serve.web import is_of_page

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz")
"""Paths for which neither token nor a free place is needed."""


class Gate:
    """Wraps an application."""

    def __init__(self, app: App, options: ServeOptions, metrics: Metrics) -> None:
        """With nothing at work yet."""
        self._app, self._limits, self._metrics = app, options.limits, metrics
        self._token = None if options.token is None else b"Bearer " + options.token.encode()
        self._log_requests = options.log_requests
        self._hosts = options.known_hosts()
        self._at_work = self._batches = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the server itself leaves out the body, and knows it by the scope it made
        await _Exchange(self, scope, receive, send).run()

    def check_host(self, headers: dict[bytes, bytes]) -> None:
        """Refuses a page elsewhere whose name was made to lead here (DNS rebinding), where there is no token to keep it out.

        Raises:
            Problem: if so.
        """
        host = headers.get(b"host", b"localhost").decode("latin-1")
        name = host.lower() if ":" not in host else host.lower().rpartition(":")[0]
        if self._hosts is not None and name not in self._hosts and not is_number(host):
            raise Problem("misdirected", f"Host: {host[:100]!a}; say --allow-host if this server has that name")

    def check_token(self, headers: dict[bytes, bytes]) -> None:
        """Refuses who does not show the token.

        Raises:
            Problem: if so.
        """
        if self._token is not None and not hmac.compare_digest(headers.get(b"authorization", b""), self._token):
            raise Problem("unauthorized", "send the header Authorization: Bearer and the token")

    def check_room(self, is_batch: bool) -> None:
        """Refuses what would be too much at a time.

        Raises:
            Problem: if so.
        """
        if self._at_work >= self._limits.requests or (is_batch and self._batches >= self._limits.batches):
            raise Problem("busy", "too many requests at a time; ask again in a moment")


class _Exchange:
    """One request and its answer."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate, self._scope, self._receive_next, self._send_on = gate, scope, receive, send
        self._status = self._sent_bytes = self._received_bytes = 0
        self._has_ended = False

    async def run(self) -> None:
        gate, limits, path = self._gate, self._gate._limits, self._scope["path"]
        started_s, is_batch = time.perf_counter(), path == "/batch"
        gate._metrics.at_work.inc()
        try:
            if path not in OPEN:
                headers = dict(self._scope["headers"])
                gate.check_host(headers)
                if not is_of_page(path):
                    gate.check_token(headers)
                gate.check_room(is_batch)
                self._check_length(headers)
            gate._at_work += 1
            gate._batches += is_batch
            try:
                with anyio.move_on_after(limits.batch_seconds if is_batch else limits.seconds) as deadline:
                    await gate._app(self._scope, self._receive, self._send)
                if deadline.cancelled_caught:
                    await self._tell(Problem("too-slow", "the request took longer than the server allows"))
            finally:
                gate._at_work -= 1
                gate._batches -= is_batch
        except Problem as problem:
            await self._tell(problem)
        except Exception:
            log.say("bug", traceback.format_exc(), "error", path=path[:200])
            await self._tell(Problem("bug", "the server's log says more"))
        finally:
            gate._metrics.at_work.dec()
            self._observe(path, time.perf_counter() - started_s)

    def _observe(self, path: str, seconds: float) -> None:
        status = self._status if self._has_ended else 0
        self._gate._metrics.observe(path, status, seconds, self._sent_bytes)
        if self._gate._log_requests:
            facts = {"method": self._scope["method"], "path": path[:500], "status": status, "bytes": self._sent_bytes}
            message = f"{facts['method']} {facts['path']!a} {status} {self._sent_bytes} bytes {seconds * 1e3:.1f} ms"
            log.say("request", message, **facts, ms=round(seconds * 1e3, 3))

    def _check_length(self, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._gate._limits.body_bytes:
            raise _too_large(self._gate._limits)

    async def _receive(self) -> Message:
        message = await self._receive_next()
        self._received_bytes += len(message.get("body", b""))
        if self._received_bytes > self._gate._limits.body_bytes:
            raise _too_large(self._gate._limits)
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        await self._send_on(message)
        if message["type"] == "http.response.body":
            self._sent_bytes += len(message.get("body", b""))
            self._has_ended = not message.get("more_body", False)

    async def _tell(self, problem: Problem) -> None:
        """Answers with a problem; where an answer has begun, it is cut off, which the server does when nothing more comes."""
        if self._status:
            return
        body = problem.body()
        headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": problem.status, "headers": pairs})
        await self._send({"type": "http.response.body", "body": body})


def _too_large(limits: Limits) -> Problem:
    return Problem("too-large", f"the body of a request may have {limits.body_bytes:,} bytes")
