"""What commands say: lines for people, JSON lines for machines."""

from __future__ import annotations

import datetime
import json

import pytest

from tsae import log


def test_people_read_the_message_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log.say("note", "hello", labels=3)
    log.say("refused", "no", "error", exit_code=2)
    log.say("interrupted", "interrupted", "warning")
    log.tell("planned", images=3)
    assert capsys.readouterr() == ("", "hello\ntsae: error: no\ntsae: interrupted\n")


def test_machines_read_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with log.json_lines(True):
        log.say("refused", "no\nway", "error", exit_code=2)
        log.tell("planned", images=3)
    log.say("note", "for people again")
    *lines, last = capsys.readouterr().err.splitlines()
    told = [json.loads(line) for line in lines]
    times = [datetime.datetime.fromisoformat(line.pop("time")) for line in told]
    assert all(time.utcoffset() == datetime.timedelta(0) for time in times)
    assert told == [
        {"level": "error", "event": "refused", "message": "no\nway", "exit_code": 2},
        {"level": "info", "event": "planned", "images": 3},
    ]
    assert last == "for people again"


def test_things_are_counted_in_words() -> None:
    assert [log.counted(number, "image") for number in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
