"""A local folder that is looked at again and again: which files are new or changed, without listing all of it each time.

A folder's time of change tells whether names in it came or went, so a quick look lists only folders in which some did. A
file that is written again in its place changes no folder; only a full look, which asks for each file, sees that.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator

from tsae import paths
from tsae.inputs.files import is_folder, scan
from tsae.inputs.known import Facts, Known

COARSE_NS = 3 * 10**9
"""How much later than a folder's time of change it must be listed to be known as a whole: some file systems count in 2 s."""

QUICK_ENTRIES = 4096
"""Up to how many names in a folder a quick look asks for files again whose names it knows."""

Identity = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A folder when it was last listed: its time of change, and those that it lies in, itself included."""

    changed_ns: int
    listed_ns: int
    above: tuple[Identity, ...]

    def is_settled(self) -> bool:
        """Whether what came later has changed the folder's time."""
        return self.listed_ns - self.changed_ns > COARSE_NS


class Tree:
    """A local root, and the folders below; links are followed, but never into a folder that they lie in."""

    def __init__(self, root: str, is_wanted: Callable[[str], bool], depth: int | None) -> None:
        """Looks at nothing yet.

        Args:
            root: Absolute path.
            is_wanted: Whether a name below the root is of interest.
            depth: Most parts of a name; None is no limit.
        """
        self._root, self._is_wanted, self._depth = root, is_wanted, depth
        self._folders: dict[str, _Seen] = {}

    def look(self, known: Known, is_full: bool, fail: Callable[[str, OSError], None]) -> Iterator[tuple[str, Facts]]:
        """Files that are not known in their present state.

        Args:
            known: Those that are.
            is_full: Whether all files are asked for their states.
            fail: Gets a folder that cannot be read.

        Yields:
            Name below the root, size and version; None for both of what is no regular file.

        Raises:
            OSError: if the root cannot be read.
        """
        todo: list[tuple[str, tuple[Identity, ...]]] = [("", ())]
        if self._folders and not is_full:
            todo = [(prefix, seen.above[:-1]) for prefix, seen in self._folders.items() if self._has_changed(prefix, seen)]
        while todo:
            prefix, above = todo.pop()
            try:
                entries = self._list(prefix, above)
            except OSError as error:
                self._forget(prefix)
                if not prefix:
                    raise
                if not isinstance(error, FileNotFoundError):
                    fail(prefix, error)
                continue
            below, files = [], []
            for entry in entries:
                name = prefix + entry.name
                if is_folder(entry):
                    below.append(name + "/")
                elif self._is_wanted(name):
                    files.append((name, entry))
            if below and (self._depth is None or prefix.count("/") + 1 < self._depth):
                above = self._folders[prefix].above
                todo += [(folder, above) for folder in below if is_full or folder not in self._folders]
            yield from self._changed(files, known, is_full or len(files) <= QUICK_ENTRIES)

    def _list(self, prefix: str, above: tuple[Identity, ...]) -> list[os.DirEntry[str]]:
        """What is in a folder, and notes that it was listed; nothing if it is one of those that it lies in."""
        folder, listed_ns = paths.join(self._root, prefix), time.time_ns()
        changed_ns = os.stat(folder).st_mtime_ns  # before it is listed: what comes later changes it
        identity, entries = scan(folder)
        if identity in above:
            return []
        self._folders[prefix] = _Seen(changed_ns, listed_ns, (*above, identity))
        return entries

    def _has_changed(self, prefix: str, seen: _Seen) -> bool:
        try:
            return os.stat(paths.join(self._root, prefix)).st_mtime_ns != seen.changed_ns or not seen.is_settled()
        except OSError:
            return True

    def _forget(self, prefix: str) -> None:
        for gone in [folder for folder in self._folders if folder.startswith(prefix)]:
            del self._folders[gone]

    def _changed(self, names: list[tuple[str, os.DirEntry[str]]], known: Known, asks_all: bool) -> Iterator[tuple[str, Facts]]:
        if not asks_all:
            are_old = known.are_known([name for name, _ in names]).tolist()
            names = [pair for pair, is_old in zip(names, are_old, strict=True) if not is_old]
        states = [(name, facts) for name, entry in names if (facts := facts_of(entry)) is not None]
        are_known = known.are_in_states([name for name, _ in states], [facts for _, facts in states]).tolist()
        yield from (state for state, is_known in zip(states, are_known, strict=True) if not is_known)


def facts_of(file: str | os.DirEntry[str]) -> Facts | None:
    """Size and version of a file; neither of one that is not regular, None of one that is not there."""
    try:
        facts = paths.local_facts(os.stat(file) if isinstance(file, str) else file.stat())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return None, None
    return facts.size_bytes, facts.version
