"""Output names, as an algorithm: whatever the keys, no two images meet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tsae.jobs.decompress import find_whole_names, output_name

PARTS = st.lists(
    st.sampled_from(["a", "b", "a.png", "a.jpg", "a.png.png", "a.jpg.png", "b.bmp", ".png", "a.png.jpg"]),
    min_size=1,
    max_size=3,
)


def is_file_tree(names: list[str]) -> bool:
    """Whether files of these names can lie in one folder: none twice, none a folder of another."""
    return len(set(names)) == len(names) and not any(other.startswith(f"{name}/") for name in names for other in names)


@given(st.sets(PARTS.map("/".join), max_size=12).filter(lambda keys: is_file_tree(list(keys))))
def test_outputs_never_meet(keys: set[str]) -> None:
    whole = find_whole_names(keys)
    names = [output_name(key, whole) for key in keys]
    assert len(set(names)) == len(names)
    assert all(name.endswith(".png") for name in names)
    assert all(name.startswith(key.rpartition(".")[0]) for name, key in zip(names, keys, strict=True))


def test_only_those_that_meet_keep_their_endings() -> None:
    keys = ["a.png", "a.jpg", "b.jpg", "c.ppm", "d/a.png"]
    assert find_whole_names(keys) == {"a.png", "a.jpg"}
