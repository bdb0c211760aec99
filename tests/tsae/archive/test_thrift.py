"""Thrift's compact protocol: what is read, and that whatever is malformed is a ValueError and takes no memory."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest

from tsae.archive.thrift import BINARY, BOOL, I16, I32, I64, MAX_DEPTH, ListOf, Struct, read_struct

INNER = Struct("count", count=I32, name=BINARY)
ALL = Struct(
    flag=BOOL, short=I16, number=I32, long=I64, text=BINARY, inner=INNER, items=ListOf(INNER, 20), numbers=ListOf(I32, 20)
)


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def signed(number: int) -> bytes:
    return varint(2 * number if number >= 0 else -2 * number - 1)


def field(number: int, wire: int, value: bytes = b"") -> bytes:
    """A field with its number in full."""
    return bytes([wire]) + signed(number) + value


def listed(wire: int, items: list[bytes]) -> bytes:
    head = bytes([len(items) << 4 | wire]) if len(items) < 15 else bytes([0xF0 | wire]) + varint(len(items))
    return head + b"".join(items)


def read(data: bytes) -> dict[str, Any]:
    values, end = read_struct(data, ALL)
    assert end == len(data)
    return values


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"", {}),
        (field(1, 1), {"flag": True}),
        (field(1, 2), {"flag": False}),
        (field(2, 4, signed(-(2**15))), {"short": -(2**15)}),
        (field(3, 5, signed(2**31 - 1)), {"number": 2**31 - 1}),
        (field(4, 6, signed(-(2**63))), {"long": -(2**63)}),
        (field(5, 8, b"\3abc"), {"text": b"abc"}),
        (b"\x11\x14\x02", {"flag": True, "short": 1}),
        (field(6, 12, b"\x15\x0e\0"), {"inner": {"count": 7}}),
        (field(7, 9, listed(12, [b"\x15\1\x18\1x\0"] * 16)), {"items": [{"count": -1, "name": b"x"}] * 16}),
        (field(8, 9, listed(5, [signed(300), signed(-2)])), {"numbers": [300, -2]}),
    ],
)
def test_each_kind_of_value_is_read(data: bytes, values: dict[str, Any]) -> None:
    assert read(data + b"\0") == values


@pytest.mark.parametrize(
    "unknown",
    [
        *(field(99, wire, b"") for wire in (1, 2)),
        field(99, 3, b"\xff"),
        *(field(99, wire, signed(2**14)) for wire in (4, 5, 6)),
        field(99, 7, b"12345678"),
        field(99, 8, b"\3abc"),
        field(99, 9, listed(12, [b"\x11\x28\1x\0"] * 3)),
        field(99, 10, listed(1, [b"\1", b"\2"])),
        field(99, 12, b"\x1c\x17abcdefgh\0\0"),
    ],
)
def test_fields_that_are_not_named_are_skipped(unknown: bytes) -> None:
    data = unknown + field(5, 8, b"\1x") + b"\0"
    assert read(data) == {"text": b"x"}
    for end in range(len(data)):
        with pytest.raises(ValueError, match="after their end|are left"):
            read_struct(data[:end], ALL)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (field(3, 5, b"\xff" * 10 + b"\1"), "more than 10 bytes"),
        (field(99, 6, b"\xff" * 10 + b"\1"), "more than 10 bytes"),
        (field(4, 6, b"\xff" * 9 + b"\2"), "more than 64 bits"),
        (field(3, 5, varint(2**32)), "more than 32 bits"),
        (field(2, 4, varint(2**16)), "more than 16 bits"),
        (field(3, 6, b"\0"), "field number of type 6; must be 5"),
        (field(1, 5, b"\0"), "field flag of type 5; must be 2"),
        (field(3, 5, b"\0") + field(3, 5, b"\0"), "comes twice"),
        (field(6, 12, b"\0"), "inner: field count is missing"),
        (field(7, 9, listed(5, [b"\0"])), "items: list of 1 items of type 5"),
        (field(8, 9, listed(5, [b"\0"] * 21)), "at most 20"),
        (field(8, 9, b"\xf5" + varint(2**31)), "length 2,147,483,648"),
        (field(99, 9, b"\xf5" + varint(2**31)), "length 2,147,483,648"),
        (field(5, 8, varint(2**40)), "bytes are left"),
        (field(99, 11, b"\0"), "type 11"),
        (field(99, 13, b"\0"), "type 13"),
        (b"\x10", "type 0"),
        (field(0, 1), "field 0"),
        (field(-3, 1), "field -3"),
        (field(2**15 - 1, 1) + b"\x11", "field 32768"),
        (field(99, 12) + b"\x1c" * 10**5, "nested more than 16"),
        (field(99, 9) + b"\x19" * 10**5, "nested more than 16"),
    ],
)
def test_what_is_malformed_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read_struct(data + b"\0" * 8, ALL)
    assert "\n" not in str(caught.value)


def test_the_deepest_struct_is_read() -> None:
    deep = field(99, 12) + b"\x1c" * (MAX_DEPTH - 1) + b"\0" * (MAX_DEPTH + 1)
    assert read(deep) == {}
    with pytest.raises(ValueError, match="nested"):
        read(field(99, 12) + b"\x1c" * MAX_DEPTH + b"\0" * (MAX_DEPTH + 2))


def test_a_list_that_waits_tells_where_its_items_start() -> None:
    data = field(1, 9, listed(12, [b"\x15\2\0", b"\x15\4\0"])) + b"\0"
    values, end = read_struct(data, Struct(items=ListOf(INNER, 9, waits=True)))
    assert end == len(data)
    assert [read_struct(data, INNER, start)[0] for start in values["items"]] == [{"count": 1}, {"count": 2}]


def test_random_bytes_are_a_struct_or_a_value_error_in_little_memory() -> None:
    rng = random.Random(0)
    messages = []
    tracemalloc.start()
    for _ in range(4000):
        data = (
            rng.randbytes(rng.randrange(60))
            if rng.random() < 0.3
            else bytes(rng.choices(b"\0\1\x15\x18\x19\x1c\xfc\xff", k=60))
        )
        try:
            _, end = read_struct(data, ALL)
            assert 0 < end <= len(data)
        except ValueError as error:
            messages.append(str(error))
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert len(messages) > 1000
    assert not any("\n" in message for message in messages)
