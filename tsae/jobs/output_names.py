"""Names of the image files that keys become, such that no two of them meet."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable

OUTPUT_ENDING = ".png"


def short_name(key: str) -> str:
    """The output's name where nothing else claims it: the key with the ending `.png`."""
    return posixpath.splitext(key)[0] + OUTPUT_ENDING


def find_whole_names(keys: Iterable[str]) -> frozenset[str]:
    """Keys whose outputs would meet another output, or a folder, if their endings were replaced.

    They become `KEY.png`. If that is in turn the short name of another key, that one keeps its ending as well.

    Args:
        keys: All keys of the archive, so that names do not depend on a selection.
    """
    keys = list(keys)
    folders = {folder for key in keys for folder in _parents(key)}
    names = Counter(map(short_name, keys))
    whole = {key for key in keys if names[short_name(key)] > 1 or short_name(key) in folders}
    while met := {key for key in keys if key not in whole and short_name(key).removesuffix(OUTPUT_ENDING) in whole}:
        whole |= met
    return frozenset(whole)


def _parents(key: str) -> list[str]:
    parts = key.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def output_name(key: str, whole_names: frozenset[str]) -> str:
    """Where the image of `key` goes, relative to the output folder."""
    return key + OUTPUT_ENDING if key in whole_names else short_name(key)
