"""Hostile and clumsy clients: paths, sizes, slowness, hanging up, too many at a time, no token."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tsae.serve.conftest import Server
from tsae.cli import main
from tsae.errors import InputError
from tsae.serve.options import Limits, check_openness, is_loopback, read_token

TOKEN = "0123456789abcdef-token"  # noqa: S105

HOSTILE = [
    "..", "../manifest.json", "%2e%2e/manifest.json", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "%2Fetc%2Fpasswd", "a%00b",
    "%00", "%FF%FE", "a//b.png", "./a.png", "c:/x", "%5C..%5Cx", "", "%0d%0aset-cookie:x", "%ED%A0%80", "x" * 10_000,
    "%C3%BC" * 3000, "a%252Fb", "%", "%zz", "?", "a;b=c", "😀",
]  # fmt: skip


def raw(server: Server, request: bytes, wait_s: float = 30) -> bytes:
    """What comes back until the server closes, which is a reset where it has not read all of the request."""
    parts = list[bytes]()
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=wait_s) as connection,
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
    ):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(request)
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def get(server: Server, target: bytes) -> bytes:
    return raw(server, b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")


@pytest.mark.parametrize("key", HOSTILE)
@pytest.mark.parametrize("route", ["/images/", "/latents/", "/originals/"])
def test_hostile_keys_are_not_found(server: Server, route: str, key: str) -> None:
    answer = get(server, (route + key).encode())
    status = int(answer.split()[1])
    assert status in (400, 404), answer[:300]
    assert b"root:" not in answer
    assert b"set-cookie" not in answer.split(b"\r\n\r\n")[0].lower()
    if status == 404:
        assert b"application/problem+json" in answer
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["status"] == 404


@pytest.mark.parametrize(
    "target", [b"/" + b"x" * 70_000, b"/images?after=" + b"y" * 70_000, b"/images?prefix=%00%FF", b"//", b"*"]
)
def test_hostile_targets_get_an_answer(server: Server, target: bytes) -> None:
    assert int(get(server, target).split()[1]) < 500
    assert server.ask("/healthz").status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"GET\r\n\r\n", b"\0" * 1000,
     b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
     b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_ends_the_connection(server: Server, request_bytes: bytes) -> None:
    answer = raw(server, request_bytes)
    assert answer == b"" or int(answer.split()[1]) in (400, 505), answer
    assert server.ask("/healthz").status == 200


@pytest.mark.parametrize("path", ["/images", "/stats", "/images/a.png", "/healthz"])
def test_other_methods_are_refused(server: Server, path: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = server.ask(path, method)
        assert answer.status == 405
        assert "GET" in answer.headers["allow"]


def test_a_body_that_is_too_large_is_not_read(server: Server) -> None:
    limit = Limits().body_bytes
    said = raw(server, b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (limit + 1))
    assert int(said.split()[1]) == 413
    chunk = b"%x\r\n" % 2**16 + b" " * 2**16 + b"\r\n"
    unsaid = b"POST /batch HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * (limit // 2**16 + 1)
    assert int(raw(server, unsaid).split()[1]) == 413


def test_a_batch_of_too_many_keys_is_refused(server: Server) -> None:
    most = Limits().batch_keys
    answer = server.ask("/batch", "POST", json.dumps({"keys": ["a"] * (most + 1)}).encode())
    assert answer.status == 413
    assert f"{most:,}" in answer.json()["detail"]


def test_a_batch_of_as_many_keys_as_are_taken(server: Server) -> None:
    key = server.ask("/images?limit=1").json()["images"][0]["key"]
    keys = [key, *(f"none/{i}.png" for i in range(Limits().batch_keys - 1))]
    answer = server.ask("/batch", "POST", json.dumps({"keys": keys}).encode())
    with zipfile.ZipFile(io.BytesIO(answer.body)) as file:
        assert len(file.namelist()) == 2
        assert len(json.loads(file.read(".tsae/errors.json"))["errors"]) == len(keys) - 1


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")
@pytest.mark.parametrize("path", ["/images/{}?size=64", "/originals/{}", "/images?limit=3"])
def test_a_load_tool_sees_no_failure(server: Server, path: str) -> None:
    target = path.format(server.ask("/images?limit=1").json()["images"][0]["key"])
    command = ["wrk", "-t1", "-c16", "-d1s", "--timeout", "30s", f"http://127.0.0.1:{server.port}{target}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "requests in" in said
    assert "Non-2xx" not in said
    assert "Socket errors" not in said


def test_a_token_is_asked_for(start: Callable[..., Server], archive_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    server = start(archive_dir, "--token-file", str(tmp_path / "token"))
    assert server.ask("/images", "OPTIONS").status == 401
    for path in ("/images", "/stats", "/metrics", "/docs", "/openapi.json", "/nothing"):
        answer = server.ask(path)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", f"bearer {TOKEN[:-1]}"):
            assert server.ask(path, authorization=wrong).status == 401
    assert server.ask("/healthz").status == 200
    assert server.ask("/readyz").status == 200
    image = server.ask("/images?limit=1", authorization=f"Bearer {TOKEN}").json()["images"][0]
    answer = server.ask(image["url"], authorization=f"Bearer {TOKEN}")
    assert answer.headers["cache-control"].startswith("private")
    assert TOKEN not in json.dumps(server.events)


def test_a_name_that_is_not_the_servers_is_refused_where_no_token_keeps_pages_out(server: Server) -> None:
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", ""):
        answer = server.ask("/images", host=host)
        assert (answer.status, answer.json()["type"]) == (421, "urn:tsae:misdirected")
    for host in ("localhost", f"localhost:{server.port}", "127.0.0.1:1", "[::1]:80", "signs.example:8000"):
        assert server.ask("/images", host=host).status == 200
    assert server.ask("/healthz", host="pod.example").status == 200


def test_too_many_requests_at_a_time_are_turned_away(start: Callable[..., Server], archive_dir: Path) -> None:
    server = start(archive_dir, "--max-requests", "2", "--max-seconds", "300")
    head = b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    for connection in slow:
        connection.sendall(head)
    busy = server.wait_for("/stats", lambda answer: answer.status == 503)
    assert busy.json()["type"] == "urn:tsae:busy"
    assert busy.headers["retry-after"] == "1"
    assert server.ask("/healthz").status == 200
    for connection in slow:
        connection.close()
    server.wait_for("/stats", lambda answer: answer.status == 200)


def test_a_request_that_takes_too_long_is_ended(start: Callable[..., Server], archive_dir: Path) -> None:
    server = start(archive_dir, "--max-seconds", "0.3", "--max-batch-seconds", "0.3")
    answer = raw(server, b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
    assert int(answer.split()[1]) == 503
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["type"] == "urn:tsae:too-slow"


def test_who_sends_no_whole_head_is_hung_up_on_while_others_are_served(start: Callable[..., Server], archive_dir: Path) -> None:
    server = start(archive_dir, "--max-head-seconds", "0.5")
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(50)]
    for connection in silent[:25]:
        connection.sendall(b"GET /healthz HT")
    again = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    again.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):
        answer += again.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    again.sendall(b"GET /heal")
    assert server.ask("/images").status == 200
    for connection in [*silent, again]:
        assert connection.recv(65536) == b""
        connection.close()


def test_clients_that_hang_up_leave_nothing_behind(server: Server) -> None:
    keys = [image["key"] for image in server.ask("/images").json()["images"]]
    body = json.dumps({"keys": keys, "format": "webp", "size": 1024}).encode()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            connection.recv(1000)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"GET /images/%s?size=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n" % keys[0].encode())

    def is_idle(answer: object) -> bool:
        lines = server.ask("/metrics").body.decode().splitlines()
        return "tsae_requests_at_work 1.0" in lines and "tsae_decoder_queue 0.0" in lines

    server.wait_for("/healthz", is_idle)


def test_a_slow_reader_does_not_hold_up_others(server: Server) -> None:
    keys = [image["key"] for image in server.ask("/images").json()["images"]]
    body = json.dumps({"keys": keys, "format": "png", "size": 512}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        slow.recv(100)
        for key in keys:
            assert server.ask(f"/images/{key}").status == 200
            time.sleep(0.001)


def test_what_would_be_open_to_all_is_refused(archive_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(archive_dir), "--host", "0.0.0.0", "--port", "0"]) == 2  # noqa: S104
    assert "--no-token" in capsys.readouterr().err
    check_openness("0.0.0.0", None, True)  # noqa: S104
    check_openness("0.0.0.0", TOKEN, False)  # noqa: S104
    for host, loopback in {"127.0.0.1": True, "127.9.9.9": True, "::1": True, "[::1]": True, "localhost": True, "::": False,
                           "0.0.0.0": False, "10.0.0.1": False, "example.com": False}.items():  # fmt: skip  # noqa: S104
        assert is_loopback(host) is loopback


def test_tokens_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSAE_TOKEN", raising=False)
    assert read_token(None) is None
    for text in ("", "short", "with spaces in it all over", "é" * 20):
        monkeypatch.setenv("TSAE_TOKEN", text)
        with pytest.raises(InputError, match="TSAE_TOKEN"):
            read_token(None)
    with pytest.raises(InputError, match="cannot be read"):
        read_token(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "flags",
    [["--port", "70000"], ["--threads", "0"], ["--max-batch", "0"], ["--interval", "0"], ["--max-seconds", "-1"],
     ["--cache-mb", "-1"], ["--host", "256.0.0.1", "--no-token"]],
)  # fmt: skip
def test_flags_that_make_no_sense_are_refused(archive_dir: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(archive_dir), "--port", "0", *flags]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_archive_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path), "--port", "0"]) == 2
    assert "not an archive" in capsys.readouterr().err


def test_without_the_extra_it_is_named(
    archive_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "tsae.serve.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(archive_dir), "--port", "0"]) == 2
    assert "tsae[serve]" in capsys.readouterr().err
