"""The order of batches: a permutation that only seed and epoch decide, shared out and resumed without loss."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsae.data.order import BatchOrder, epoch_order

GROUPS = np.repeat(np.arange(23), np.arange(1, 24))
"""Row groups of 1 to 23 images, 276 in all."""


def batches(order: BatchOrder) -> list[list[int]]:
    found = [batch.tolist() for batch in order]
    assert len(found) == len(order)
    return found


def test_an_order_is_a_permutation_and_mixes_a_window_of_row_groups() -> None:
    order = epoch_order(GROUPS, seed=3, epoch=0, window=4)
    assert sorted(order.tolist()) == list(range(276))
    seen, at = [], 0
    while at < len(order):  # each block has all images of four row groups
        groups, size = set(), 0
        for end in range(at, len(order)):
            groups.add(int(GROUPS[order[end]]))
            if len(groups) > 4:
                break
            size = end + 1 - at
        block = {int(group) for group in GROUPS[order[at : at + size]]}
        assert size == sum(group + 1 for group in block)
        seen += [block]
        at += size
    assert [len(block) for block in seen] == [4] * 5 + [3]


GOLDEN_0 = [7, 9, 11, 10, 6, 8, 4, 2, 3, 0, 1, 5]
GOLDEN_1 = [3, 6, 0, 7, 11, 8, 1, 5, 4, 9, 2, 10]


def test_the_order_is_the_same_for_ever() -> None:
    """Golden: training runs that are resumed with a later version rely on it."""
    groups = np.repeat(np.arange(4), 3)
    assert epoch_order(groups, seed=0, epoch=0, window=2).tolist() == GOLDEN_0
    assert epoch_order(groups, seed=0, epoch=1, window=64).tolist() == GOLDEN_1


def test_seed_and_epoch_decide_and_nothing_else() -> None:
    orders = [epoch_order(GROUPS, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(GROUPS, 1, 1).tolist() == orders[3]
    assert epoch_order(GROUPS, 1, 1, window=5).tolist() != orders[3]


def test_all_images_come_as_often_in_all_places() -> None:
    """Of few row groups every permutation is as likely as another."""
    orders = np.array([epoch_order(np.array([0, 0, 1, 2]), 5, epoch) for epoch in range(2400)])
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert 60 < counts.min() <= counts.max() < 145


def test_the_order_does_not_import_torch() -> None:
    code = "import sys, importlib.util as u, numpy as np\n"
    code += "spec = u.spec_from_file_location('order', sys.argv[1]); m = u.module_from_spec(spec)\n"
    code += "sys.modules['order'] = m; spec.loader.exec_module(m); m.epoch_order(np.zeros(3, int), 0, 0)\n"
    code += "assert 'torch' not in sys.modules"
    import tsae.data.order

    subprocess.run([sys.executable, "-c", code, tsae.data.order.__file__], check=True)


shapes = st.tuples(
    st.integers(0, 60),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from(["keep", "drop", "pad"]),
    st.booleans(),
    st.integers(0, 9),
)


@given(shapes)
def test_ranks_share_an_epoch_and_go_on_after_any_step(shape: tuple[int, int, int, str, bool, int]) -> None:
    count, batch_size, ranks, uneven, shuffle, steps = shape
    groups = np.arange(count) // 7

    def orders() -> list[BatchOrder]:
        return [BatchOrder(groups, batch_size, shuffle, 1, rank, ranks, uneven, 3, epoch=2) for rank in range(ranks)]

    every = [batches(order) for order in orders()]
    whole = epoch_order(groups, 1, 2, 3).tolist() if shuffle else list(range(count))
    full = count // (batch_size * ranks)
    for step in range(full):
        at = step * batch_size * ranks
        assert [image for rank in every for image in rank[step]] == whole[at : at + batch_size * ranks]
    had = [image for rank in every for batch in rank for image in batch]
    if uneven == "keep":
        assert sorted(had) == list(range(count))
    else:
        assert len({tuple(map(len, rank)) for rank in every}) == 1
        assert len(had) == len(set(had)) == full * batch_size * ranks if uneven == "drop" else set(had) == set(range(count))
        assert uneven == "drop" or len(had) < count + ranks
    steps = min(steps, len(every[-1]))  # a rank that has a batch less has it last
    states = {json.dumps(order.state(steps)) for order in orders()}
    assert len(states) == 1
    for order, rank in zip(orders(), every, strict=True):
        order.set_epoch(0)
        order.load_state(json.loads(next(iter(states))))
        assert batches(order) == rank[steps:]


@given(st.integers(0, 80), st.integers(1, 9), st.integers(1, 4), st.integers(1, 9), st.integers(1, 4), st.integers(0, 5))
def test_other_ranks_and_batches_take_up_what_is_left(count: int, b1: int, w1: int, b2: int, w2: int, steps: int) -> None:
    groups = np.arange(count) // 7
    first = [BatchOrder(groups, b1, True, 4, rank, w1) for rank in range(w1)]
    had = [image for order in first for batch in batches(order)[:steps] for image in batch]
    second = [BatchOrder(groups, b2, rank=rank, world_size=w2) for rank in range(w2)]
    for order in second:
        order.load_state(first[0].state(steps))
        had += [image for batch in batches(order) for image in batch]
    assert sorted(had) == list(range(count))


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"window": 0},
        {"rank": 2, "world_size": 2},
        {"rank": -1},
        {"uneven": "mend"},
        {"seed": -1},
        {"epoch": -1},
        {"images": -1},
    ],
)
def test_what_cannot_be_ordered_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|rank"):
        BatchOrder(**{"groups": GROUPS, "batch_size": 4, **wrong})


@pytest.mark.parametrize("other", [BatchOrder(GROUPS[1:], 4), BatchOrder(GROUPS, 4, window=2), BatchOrder(GROUPS, 4, False)])
def test_a_state_of_another_order_is_refused(other: BatchOrder) -> None:
    with pytest.raises(ValueError, match="another"):
        other.load_state(BatchOrder(GROUPS, 4).state(1))
