"""What `tsae serve` can be told, and what it refuses. Knows no framework."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import os

from tsae.errors import InputError

TOKEN_VARIABLE = "TSAE_TOKEN"  # noqa: S105 (the name of one)

MIN_TOKEN_CHARACTERS = 16
MAX_TOKEN_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request, or all together, may take.

    Attributes:
        requests: At work at a time; more are turned away.
        batches: Of these, how many may be `/batch`.
        batch_keys: Keys of a `/batch`.
        body_bytes: Of a request.
        seconds: For a request.
        batch_seconds: For a `/batch`, until its last byte is taken.
        head_seconds: From the first byte of a request, or a new connection, to the end of its head.
        stop_seconds: For requests that are at work when the server is asked to end.
    """

    requests: int = 256
    batches: int = 8
    batch_keys: int = 10_000
    body_bytes: int = 2**22
    seconds: float = 30.0
    batch_seconds: float = 300.0
    head_seconds: float = 10.0
    stop_seconds: float = 10.0


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    """What a server is and has.

    Attributes:
        archive: Path or URL.
        originals: What was compressed, as INPUT, to be shown beside; None shows what came back alone.
        originals_root: For a list of originals, the folder that its keys are relative to.
        host: Address to listen at.
        port: 0 takes a free one.
        token: What clients must show; None is nothing.
        cache_bytes: For encoded images.
        group_bytes: For row groups as read.
        threads: That decode.
        interval_s: Between looks for a new commit.
        hosts: Names that clients may know it by, beside numbers and localhost; only looked at on loopback without a token.
        cors: Origins that browsers may let read; `*` is any.
        log_requests: Whether each request is told of.
        limits: See there.
    """

    archive: str
    originals: str | None = None
    originals_root: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = dataclasses.field(default=None, repr=False)
    cache_bytes: int = 2**26
    group_bytes: int = 2**26
    threads: int = 1
    interval_s: float = 1.0
    hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    log_requests: bool = False
    limits: Limits = Limits()

    def known_hosts(self) -> frozenset[str] | None:
        """Names that clients may know it by; None is any."""
        is_open = self.token is not None or not is_loopback(self.host)
        return None if is_open else frozenset(("localhost", *(name.lower() for name in self.hosts)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    limits = Limits()
    parser.add_argument("archive", metavar="ARCHIVE", help="local or URL")
    parser.add_argument("--originals", metavar="INPUT", help="what was compressed, to be shown beside")
    parser.add_argument("--root", metavar="DIR", help="for a list: the folder that keys are relative to (default: the list's)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, metavar="P", help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--token-file", metavar="FILE", help=f"what clients must show as Bearer; or in ${TOKEN_VARIABLE}")
    parser.add_argument("--no-token", action="store_true", help="let whoever reaches another address than loopback read all")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="name behind a proxy, without a token"
    )
    parser.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="origin that may read in browsers, or *")
    parser.add_argument("--cache-mb", type=int, default=64, metavar="MB", help="for encoded images (default: %(default)s)")
    parser.add_argument("--group-mb", type=int, default=64, metavar="MB", help="for row groups read (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="that decode (default: one less than cores, 4 at most)")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="between looks for commits (default: 1)")
    parser.add_argument("--max-requests", type=int, default=limits.requests, metavar="N", help="at a time (default: 256)")
    parser.add_argument("--max-batch", type=int, default=limits.batch_keys, metavar="N", help="keys of one (default: 10000)")
    parser.add_argument("--max-seconds", type=float, default=limits.seconds, metavar="S", help="of a request (default: 30)")
    # For tests, and for whoever knows why.
    for name, value in (("batch", limits.batch_seconds), ("head", limits.head_seconds), ("stop", limits.stop_seconds)):
        parser.add_argument(f"--max-{name}-seconds", type=float, default=value, help=argparse.SUPPRESS)
    parser.add_argument("--log-requests", action="store_true", help="tell of each request")
    parser.add_argument("--log-json", action="store_true", help="JSON lines on standard error")


def serve_options(args: argparse.Namespace) -> ServeOptions:
    """The options of parsed arguments.

    Raises:
        InputError: if a number or the token cannot be used, or another address than loopback would be open to all.
    """
    for name, least in (("cache_mb", 0), ("group_mb", 0), ("max_requests", 1), ("max_batch", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be {least} or more")
    if not 0 <= args.port < 2**16:
        raise InputError(f"--port {args.port}: must be 0 to 65535")
    if not args.interval >= 0.05 or not args.max_seconds > 0:
        raise InputError("--interval must be 0.05 s or more, --max-seconds more than 0")
    if args.threads is not None and args.threads < 1:
        raise InputError(f"--threads {args.threads}: must be 1 or more")
    token = read_token(args.token_file)
    check_openness(args.host, token, args.no_token)
    limits = Limits(
        requests=args.max_requests,
        batch_keys=args.max_batch,
        seconds=args.max_seconds,
        batch_seconds=args.max_batch_seconds,
        head_seconds=args.max_head_seconds,
        stop_seconds=args.max_stop_seconds,
    )
    return ServeOptions(
        archive=args.archive,
        originals=args.originals,
        originals_root=args.root,
        host=args.host,
        port=args.port,
        token=token,
        cache_bytes=args.cache_mb * 2**20,
        group_bytes=args.group_mb * 2**20,
        threads=args.threads or default_threads(),
        interval_s=args.interval,
        hosts=tuple(args.allow_host),
        cors=tuple(args.cors),
        log_requests=args.log_requests,
        limits=limits,
    )


def default_threads() -> int:
    """A core is left to the event loop; more than 4 wait for each other."""
    return max(1, min(4, len(os.sched_getaffinity(0)) - 1))


def read_token(file: str | None) -> str | None:
    """The token from a file, or else the environment; None if there is none.

    Raises:
        InputError: if it cannot be read or is none.
    """
    if file is None:
        text, source = os.environ.get(TOKEN_VARIABLE), f"${TOKEN_VARIABLE}"
    else:
        from tsae import paths  # takes longer than all else that the command line needs

        try:
            text, source = paths.read_file(file, MAX_TOKEN_BYTES).decode("ascii", "replace"), f"--token-file {file}"
        except OSError as error:
            raise InputError(f"--token-file {file}: cannot be read ({error.strerror or error}); check it") from error
    if text is None:
        return None
    token = text.strip()
    if len(token) < MIN_TOKEN_CHARACTERS or not all("!" <= character <= "~" for character in token):
        raise InputError(f"{source}: a token needs {MIN_TOKEN_CHARACTERS} printable ASCII characters or more, without spaces")
    return token


def check_openness(host: str, token: str | None, may_be_open: bool) -> None:
    """Refuses to let anybody read by mistake.

    Raises:
        InputError: for another address than loopback without a token, unless that is wanted.
    """
    if not is_loopback(host) and token is None and not may_be_open:
        raise InputError(
            f"--host {host}: others could read the archive; give a token (--token-file, ${TOKEN_VARIABLE}), or say --no-token"
        )


def is_number(host: str) -> bool:
    """Whether a `Host` header has an address and no name."""
    for text in (host, host.rpartition(":")[0]):
        try:
            ipaddress.ip_address(text.strip("[]"))
        except ValueError:
            continue
        return True
    return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
