"""The process: a socket, uvicorn, signals, and what is logged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tsae import log
from tsae.errors import InputError
from tsae.serve.app import make_app, with_cors
from tsae.serve.gate import Gate
from tsae.serve.options import Limits, ServeOptions
from tsae.serve.service import Service

BACKLOG = 512

SWITCH_INTERVAL_S = 0.001
"""How long a decoding thread may keep the event loop from Python; the 5 ms of Python's own add up to a slow answer."""


class _ToLog(logging.Handler):
    """What uvicorn says, as this program says things."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            log.say("http", " ".join(record.getMessage().split())[:500], "warning")


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def impatient(limits: Limits) -> type[asyncio.Protocol]:
    """Connections that are closed when the head of a request takes too long to come.

    uvicorn by itself waits for ever for it. While a request is at work its own limit holds; between two of them,
    uvicorn's for idle connections.
    """

    class Connection(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):
                self._wait()
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._timer = self.loop.call_later(limits.head_seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self.transport.close()

    return Connection


def bind(host: str, port: int) -> socket.socket:
    """A socket to listen at.

    Raises:
        InputError: if the address cannot be used.
    """
    try:
        places = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = places[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened at ({error.strerror or error}); choose another --port") from error
    return listener


def serve(options: ServeOptions) -> int:
    """Serves an archive until SIGINT or SIGTERM; requests at work are then finished.

    Returns:
        Exit code 0.

    Raises:
        InputError: if the address cannot be used.
        FormatError: if there is no archive.
    """
    service = Service(options)
    listener = bind(options.host, options.port)
    app = make_app(service)
    gate = Gate(app, options, app.state.metrics)
    config = uvicorn.Config(
        with_cors(gate, options.cors),
        http=impatient(options.limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, round(options.limits.stop_seconds)),
        backlog=BACKLOG,
        proxy_headers=False,
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    logging.getLogger("uvicorn").handlers, logging.getLogger("uvicorn").propagate = [_ToLog()], False
    with contextlib.closing(listener):
        _run_loop(config, listener, options.archive)
    return 0


def _run_loop(config: uvicorn.Config, listener: socket.socket, archive: str) -> None:
    import uvloop

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(_run(_Server(config), listener, archive))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _run(server: _Server, listener: socket.socket, archive: str) -> None:
    """Serves until a signal comes; a second one ends waiting for requests."""
    loop = asyncio.get_running_loop()

    def end(number: int) -> None:
        log.say("stopping", f"{signal.Signals(number).name}: finishing requests", signal=number)
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    serving = loop.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.005)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.say("serving", f"{archive}: serving at {url}", url=url, archive=archive)
    await serving
    log.say("stopped", f"{archive}: no longer served")
