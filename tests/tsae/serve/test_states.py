"""Archives that change, go away, come back or are damaged under a running server; and its end."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import signal
import socket
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tsae
from tests.tsae.serve.conftest import Server
from tsae.cli import main
from tsae.signs import write_signs

Start = Callable[..., Server]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    write_signs(folder, 6)
    return folder


@pytest.fixture
def archive(images: Path, tmp_path: Path) -> Path:
    place = tmp_path / "archive"
    assert main(["compress", str(images), str(place), "--model", "seed-8x8x8"]) == 0
    return place


def first_shard(archive: Path) -> Path:
    return sorted((archive / "shards").iterdir())[0]


def spoil(file: Path, start: int, length: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[start : start + length] = bytes(byte ^ 255 for byte in data[start : start + length])
    file.write_bytes(data)


def test_a_new_commit_appears_and_the_old_state_is_let_go(start: Start, archive: Path, images: Path) -> None:
    server = start(archive, "--interval", "0.05")
    before = server.ask("/images").json()
    shutil.copy(next(images.rglob("*.png")), images / "new.png")
    changed = images / before["images"][0]["key"]
    Image.new("RGB", (40, 40), (200, 30, 30)).save(changed)
    assert main(["compress", str(images), str(archive), "--model", "seed-8x8x8"]) == 0
    after = server.wait_for("/images", lambda answer: answer.json()["total"] == 7).json()
    assert after["state"] != before["state"]
    versions = {row["key"]: row["version"] for row in before["images"]}
    newer = {row["key"]: row["version"] for row in after["images"]}
    assert {key for key in versions if versions[key] != newer[key]} == {before["images"][0]["key"]}
    assert server.ask("/images/new.png").status == 200
    old = server.ask(before["images"][0]["url"])
    assert (old.status, old.json()["version"]) == (404, newer[before["images"][0]["key"]])
    with tsae.open_archive(str(archive)) as opened:
        key = before["images"][0]["key"]
        pixels = np.asarray(Image.open(io.BytesIO(server.ask(f"/images/{key}").body)).convert("RGB"))
        assert np.array_equal(pixels, opened[key])
    # The old state is no longer held: the next commit removes what only that needed.
    shutil.copy(images / "new.png", images / "newer.png")
    assert main(["compress", str(images), str(archive), "--model", "seed-8x8x8"]) == 0
    server.wait_for("/readyz", lambda answer: answer.json()["images"] == 8)
    assert len(list((archive / "states").glob("*.json"))) <= 1


def test_a_batch_that_runs_ends_on_the_state_it_began_with(start: Start, archive: Path, images: Path) -> None:
    server = start(archive, "--interval", "0.05")
    keys = [row["key"] for row in server.ask("/images").json()["images"]]
    body = json.dumps({"keys": keys, "format": "png", "size": 1024}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        slow.sendall(b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        start_of_answer = slow.recv(1)
        for key in keys:
            Image.new("RGB", (32, 32), (1, 2, 3)).save(images / key)
        assert main(["compress", str(images), str(archive), "--model", "seed-8x8x8"]) == 0
        server.event("state", 2)
        response = http.client.HTTPResponse(Joined(slow, start_of_answer))  # type: ignore[arg-type]
        response.begin()
        with zipfile.ZipFile(io.BytesIO(response.read())) as file:
            assert file.testzip() is None
            assert len(file.namelist()) == len(keys)


class Joined:
    """A socket of which something was read already."""

    def __init__(self, connection: socket.socket, start: bytes) -> None:
        self._connection, self._start = connection, start

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)  # type: ignore[arg-type]

    closed = False

    def readable(self) -> bool:
        return True

    def readinto(self, target: bytearray) -> int:
        data, self._start = self._start or self._connection.recv(len(target)), b""
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass


def test_an_archive_that_goes_away_is_said_and_served_when_it_is_back(start: Start, archive: Path, tmp_path: Path) -> None:
    server = start(archive, "--interval", "0.05", "--cache-mb", "0", "--group-mb", "0")
    key = server.ask("/images").json()["images"][0]["key"]
    archive.rename(tmp_path / "away")
    gone = server.wait_for("/readyz", lambda answer: answer.status == 503)
    assert gone.json()["type"] == "urn:tsae:unavailable"
    assert "retry-after" in gone.headers
    assert server.ask(f"/images/{key}").status == 503
    assert server.ask(f"/images/{key}").json()["type"] == "urn:tsae:unavailable"
    assert server.ask("/images").status == 200  # what is known is still told
    assert server.ask("/healthz").status == 200
    assert b"tsae_archive_up 0.0" in server.ask("/metrics").body
    (tmp_path / "away").rename(archive)
    server.wait_for("/readyz", lambda answer: answer.status == 200)
    assert server.ask(f"/images/{key}").status == 200


def test_an_archive_that_is_deleted_ends_neither_server_nor_what_is_known(start: Start, archive: Path) -> None:
    server = start(archive, "--interval", "0.05", "--group-mb", "0")
    kept, other = (row["key"] for row in server.ask("/images?limit=2").json()["images"])
    before = server.ask(f"/images/{kept}")
    shutil.rmtree(archive)
    server.wait_for("/readyz", lambda answer: answer.status == 503)
    assert server.ask(f"/images/{kept}").body == before.body
    answer = server.ask(f"/images/{other}")
    assert (answer.status, answer.json()["type"]) == (503, "urn:tsae:unavailable")
    batch = server.ask("/batch", "POST", json.dumps({"keys": [kept, other]}).encode())
    with zipfile.ZipFile(io.BytesIO(batch.body)) as file:
        assert [error["status"] for error in json.loads(file.read(".tsae/errors.json"))["errors"]] == [503, 503]
    for path in ("/images", "/stats", "/healthz", "/metrics", "/docs"):
        assert server.ask(path).status == 200
    assert server.ask("/sheet").status == 503
    assert server.ask("/archive.json").status in (200, 503)
    assert not [event for event in server.events if event["event"] in ("bug", "text")]


def test_a_shard_that_is_gone_costs_its_images(start: Start, archive: Path) -> None:
    server = start(archive, "--interval", "0.05", "--cache-mb", "0", "--group-mb", "0")
    key = server.ask("/images?limit=1").json()["images"][0]["key"]
    first_shard(archive).unlink()
    answer = server.wait_for(f"/images/{key}", lambda answer: answer.status == 503)
    assert answer.json()["type"] == "urn:tsae:unavailable"
    assert server.ask("/images").status == 200
    assert server.ask("/stats").status == 200


def test_a_manifest_that_is_damaged_is_said_and_the_state_is_served(start: Start, archive: Path) -> None:
    server = start(archive, "--interval", "0.05")
    text = (archive / "manifest.json").read_bytes()
    (archive / "new").write_bytes(text[:-10])
    (archive / "new").rename(archive / "manifest.json")
    assert "restore" in server.wait_for("/readyz", lambda answer: answer.status == 503).json()["detail"]
    assert server.ask(server.ask("/images").json()["images"][0]["url"]).status == 200
    (archive / "new").write_bytes(text)
    (archive / "new").rename(archive / "manifest.json")
    server.wait_for("/readyz", lambda answer: answer.status == 200)
    assert len([event for event in server.events if event["event"] == "unavailable"]) == 1


def test_a_damaged_record_is_one_problem_among_images(start: Start, archive: Path) -> None:
    server = start(archive, "--interval", "0.05", "--cache-mb", "0", "--group-mb", "0")
    images = server.ask("/images").json()["images"]
    with tsae.open_archive(str(archive)) as opened:
        streams = {key: opened.record(key).streams[0] for key in opened}
    shard = first_shard(archive)
    key = images[2]["key"]
    spoil(shard, shard.read_bytes().index(streams[key]) + 100)
    answers = {row["key"]: server.ask(row["url"]) for row in images}
    assert {name for name, answer in answers.items() if answer.status != 200} == {key}
    assert answers[key].status == 503
    assert answers[key].json()["type"] == "urn:tsae:damaged"
    assert key in answers[key].json()["detail"]
    batch = server.ask("/batch", "POST", json.dumps({"keys": [row["key"] for row in images]}).encode())
    with zipfile.ZipFile(io.BytesIO(batch.body)) as file:
        assert len(file.namelist()) == len(images)
        assert [error["key"] for error in json.loads(file.read(".tsae/errors.json"))["errors"]] == [key]
    assert server.ask("/sheet").status == 503
    assert server.ask("/healthz").status == 200


def test_a_damaged_archive_is_served_as_far_as_it_is_intact(start: Start, archive: Path) -> None:
    shard = first_shard(archive)
    spoil(shard, 10, 200)
    server = start(archive)
    assert server.ask("/readyz").json()["damaged_shards"] == 1
    assert server.ask("/images").json()["total"] == 0
    assert shard.name in server.ask("/stats").json()["damaged_shards"][0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_finishes_what_it_does(start: Start, archive_dir: Path, number: signal.Signals) -> None:
    server = start(archive_dir)
    keys = [row["key"] for row in server.ask("/images").json()["images"]]
    body = json.dumps({"keys": keys, "format": "png", "size": 256}).encode()
    connection = server.connect()
    connection.request("POST", "/batch", body)
    response = connection.getresponse()
    response.read(10)
    server.process.send_signal(number)
    server.event("stopping")
    assert len(response.read()) > 10_000
    connection.close()
    assert server.process.wait(60) == 0
    assert server.event("stopped")
    with pytest.raises(OSError, match="refused"):
        server.ask("/healthz")


def test_a_request_that_never_ends_does_not_keep_it_for_ever(start: Start, archive_dir: Path) -> None:
    server = start(archive_dir, "--max-stop-seconds", "1")
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        server.wait_for("/metrics", lambda answer: b"tsae_requests_at_work 2.0" in answer.body)
        assert server.stop() == 0


def test_before_the_archive_is_open_it_says_so_and_ends_when_asked(
    start: Start, archive_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsae.serve.options import ServeOptions
    from tsae.serve.problems import Problem
    from tsae.serve.service import Service

    service = Service(ServeOptions(str(archive_dir)))
    with pytest.raises(Problem, match="being opened"):
        service.state()
    service.follower.fault = "the disk is gone"
    with pytest.raises(Problem, match="disk"):
        service.state()


def test_many_clients_get_what_each_asked_for(server: Server, archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as opened:
        expected = {key: opened[key] for key in opened}
    wrong: list[str] = []

    def work(keys: list[str]) -> None:
        connection = server.connect()
        for key in keys:
            connection.request("GET", f"/images/{key}?format=npy")
            if not np.array_equal(np.load(io.BytesIO(connection.getresponse().read())), expected[key]):
                wrong.append(key)
        connection.close()

    keys = list(expected)
    threads = [threading.Thread(target=work, args=(keys[i:] + keys[:i],)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_archive_in_a_store_is_served_and_followed(start: Start, images: Path, s3_folder: str) -> None:
    place = f"{s3_folder}/archive"
    assert main(["compress", str(images), place, "--model", "seed-8x8x8"]) == 0
    server = start(place, "--interval", "0.2")
    found = server.ask("/images").json()["images"]
    with tsae.open_archive(place) as opened:
        for row in found:
            array = np.load(io.BytesIO(server.ask(f"/images/{row['key']}?format=npy").body))
            assert np.array_equal(array, opened[row["key"]])
    shutil.copy(images / found[0]["key"], images / "new.png")
    assert main(["compress", str(images), place, "--model", "seed-8x8x8"]) == 0
    server.wait_for("/images/new.png", lambda answer: answer.status == 200)


def test_another_model_in_the_same_place_is_served_with_other_versions(start: Start, archive: Path, images: Path) -> None:
    server = start(archive, "--interval", "0.05")
    before = server.ask("/images").json()["images"]
    assert main(["compress", str(images), str(archive), "--overwrite"]) == 0
    server.event("state", 2)
    after = server.ask("/images").json()["images"]
    assert [row["key"] for row in before] == [row["key"] for row in after]
    assert not {row["version"][:16] for row in before} & {row["version"][:16] for row in after}
    with tsae.open_archive(str(archive)) as opened:
        for row in after:
            assert server.ask(row["url"]).status == 200
            latents = np.load(io.BytesIO(server.ask(f"/latents/{row['key']}").body))
            assert np.array_equal(latents, opened.latents([row["key"]])[0])
