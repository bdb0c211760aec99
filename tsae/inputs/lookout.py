"""An input that is looked at again and again: which of its images are new or changed, and whole. Owns no archive."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from fsspec.utils import glob_translate
from numpy.typing import NDArray

from tsae import paths
from tsae.errors import InputError
from tsae.inputs.containers import is_container
from tsae.inputs.files import WILDCARDS, add_unreadable, remote_names, split_glob
from tsae.inputs.known import NOWHERE, Facts, Known
from tsae.inputs.labels import LABELS_FILE, FolderLabels, add_labels, folder_names, is_label_file
from tsae.inputs.listing import Finding, Listing, has_image_ending
from tsae.inputs.ordering import whole
from tsae.inputs.resting import Resting
from tsae.inputs.trees import Tree, facts_of

FULL_LOOK_SHARE = 20
"""After a full look, no other comes for so many times as long as it took."""

NO_PLACES: Mapping[str, int] = MappingProxyType({})

MOST_FAILING = 4096
"""Images that failed and are asked for at each look, as a writer may have stopped in the middle of one."""


@dataclasses.dataclass(frozen=True)
class Sighting:
    """What is ready to be compressed.

    Attributes:
        listing: These images only, with their labels; and what was found now that cannot be an input.
        states: Of their files, by key, and of those that cannot be inputs.
        is_new: By row, whether no file of its key was known before, bool `[N]`.
        places: By row, what `know` or `done` told of its key, int32 `[N]`; `NOWHERE` where nothing.
    """

    listing: Listing
    states: dict[str, Facts]
    is_new: NDArray[np.bool_]
    places: NDArray[np.int32]


class Lookout:
    """Looks at a folder, or at what a glob matches.

    A local file is ready when it is at rest, see `Resting`. An object in a store is whole when it is there, so it is ready
    at once, but each look lists the whole prefix. Which labels images have may depend on all of them, or change with a table
    of labels: then `is_stale` becomes true, and only a listing of the whole input tells them.

    Attributes:
        root: As the listing's.
        is_stale: Whether labels of known images may be others now.
    """

    def __init__(self, source: str, rest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Looks at nothing yet.

        Args:
            source: The INPUT.
            rest_s: For how many seconds a local file must not have changed; also how often it is worth looking.
            clock: Seconds.

        Raises:
            InputError: if the source is neither a folder nor a glob of images.
        """
        self._rest_s, self._clock = rest_s, clock
        self.root, self._below = _split(source)
        self._matches = None if self._below is None else re.compile(glob_translate(self._below)).match
        depth = None if self._below is None or "**" in self._below else self._below.count("/") + 1
        is_remote = paths.is_url(self.root)
        self._tree = None if is_remote else Tree(self.root, self._is_wanted, depth)
        self._known, self._resting = Known(), Resting(0.0 if is_remote else rest_s, clock)
        self._failing: dict[str, Facts] = {}
        self._unreadable: set[str] = set()
        self._label_files: set[str] = set()
        self._folders = FolderLabels()
        self._next_full_s, self._has_begun, self.is_stale = clock(), False, False

    def begin(self) -> None:
        """Takes the files that are there and at rest for known, without places.

        To be called before the whole input is listed, also again.

        Raises:
            InputError: if it cannot be read.
        """
        self._has_begun = self.is_stale = False
        self._look(Finding(self.root))
        ready = self._resting.ready()
        for key, facts in ready.items():
            self._known.add(key, facts, NOWHERE)
        self._resting.drop(ready)

    def begun(self, listing: Listing) -> Listing:
        """The part of a listing of the whole input that is known; `look` tells of all that is not.

        Args:
            listing: Made after `begin`.
        """
        rows = np.flatnonzero(self._known.are_known(listing.keys))
        self._has_begun, self._folders = True, FolderLabels()
        part = dataclasses.replace(listing, table=listing.table.take(pa.array(rows)).combine_chunks())
        if self._below is None:
            self._folders.add(whole(part.table.column("key")))
        return part

    def know(self, keys: Collection[str], place: int | None = None) -> None:
        """Takes the keys of records for known, in whatever states their files are.

        Args:
            keys: The keys.
            place: Any number from 0 below 2^31, which sightings of them then have.
        """
        self._known.know(list(keys), place)

    def look(self, most: int) -> Sighting | None:
        """What is ready now.

        Args:
            most: Number of images; others wait for the next look.

        Returns:
            None if nothing is.

        Raises:
            InputError: if the input cannot be read.
        """
        finding = Finding(self.root)
        self._look(finding)
        ready = self._resting.ready()
        states = {key: ready[key] for key in sorted(ready)[:most]}
        if not states and not finding.failures:
            return None
        for key, (size_bytes, version) in states.items():
            finding.add(key, **({} if self._tree else {"size_bytes": size_bytes, "version": version}))
        table = finding.sorted_table(self.root)
        keys = table.column("key").to_pylist()
        listing = Listing(self.root, self._add_labels(finding, table), finding.failures, finding.skipped, finding.notes)
        return Sighting(listing, states, ~self._known.are_known(keys), self._known.places(keys))

    def done(self, sighting: Sighting, failed: Iterable[str], places: Mapping[str, int] = NO_PLACES) -> None:
        """Takes what was ready for known.

        Args:
            sighting: What `look` gave.
            failed: Keys of those that did not come through.
            places: Of keys that have another place now.
        """
        for key, facts in sighting.states.items():
            self._known.add(key, facts, places.get(key))
            self._failing.pop(key, None)
        self._resting.drop(sighting.states)
        self._failing.update((key, sighting.states[key]) for key in failed if key in sighting.states)
        for key in list(self._failing)[: max(0, len(self._failing) - MOST_FAILING)]:
            del self._failing[key]

    def wait_s(self) -> float:
        """Seconds until it is worth looking again: soon, if a file comes to rest soon."""
        wait_s = self._resting.wait_s()
        return self._rest_s if wait_s is None else min(self._rest_s, max(self._rest_s / 4, wait_s))

    def _is_wanted(self, name: str) -> bool:
        if self._below is None and (name == LABELS_FILE or is_label_file(name)):
            return True
        return has_image_ending(name) and (self._matches is None or bool(self._matches(name)))

    def _look(self, finding: Finding) -> None:
        """Brings what is known of the files up to date."""
        seen = set()
        try:
            with paths.as_os_error(self.root):
                for name, facts in self._found(finding):
                    seen.add(name)
                    self._see(name, facts)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{self.root}: cannot be read ({reason}); check the path, the network and its credentials"
            ) from error
        if self._tree is None:  # then all are listed each time
            self._resting.drop(self._resting.keys() - seen)
            return
        for key in (self._resting.keys() | self._failing.keys()) - seen:
            now = facts_of(os.path.join(self.root, key))
            if now is None or self._known.is_in_state(key, now):
                self._resting.drop([key])
            else:
                self._see(key, now)

    def _found(self, finding: Finding) -> Iterator[tuple[str, Facts]]:
        """Files that are not known in their present states, as far as this look tells."""
        if self._tree is None:
            yield from self._listed()
            return
        started_s = self._clock()
        is_full = started_s >= self._next_full_s
        yield from self._tree.look(self._known, is_full, lambda name, error: self._add_unreadable(finding, name, error))
        if is_full:
            self._next_full_s = self._clock() + FULL_LOOK_SHARE * (self._clock() - started_s)

    def _listed(self) -> Iterator[tuple[str, Facts]]:
        """The same of a store."""
        how, below = ("find", "") if self._below is None else ("glob", self._below)
        for name, found in remote_names(self.root, how, below):
            if found is not None and self._is_wanted(name):
                facts = found.size_bytes, found.version
                if not self._known.is_in_state(name, facts):
                    yield name, facts

    def _add_unreadable(self, finding: Finding, folder: str, error: OSError) -> None:
        if folder not in self._unreadable:
            self._unreadable.add(folder)
            add_unreadable(finding, folder, error)

    def _see(self, name: str, facts: Facts) -> None:
        if has_image_ending(name):
            self._resting.see(name, facts)
            return
        self._known.add(name, facts, NOWHERE)
        self._label_files.add(name)
        self.is_stale |= self._has_begun

    def _add_labels(self, finding: Finding, table: pa.Table) -> pa.Table:
        """Gives images the labels that they would have in a listing of the whole input."""
        if self._label_files or self._below is not None:
            finding.label_files = sorted(self._label_files - {LABELS_FILE})
            return add_labels(finding, table)
        had_labels = self._folders.are_labels
        self._folders.add(whole(table.column("key")))
        self.is_stale |= had_labels != self._folders.are_labels
        return table.append_column("label", folder_names(whole(table.column("key")))) if self._folders.are_labels else table


def _split(source: str) -> tuple[str, str | None]:
    """Root, and for a glob the pattern below it."""
    if paths.kind(source) == "folder":
        return paths.absolute(source), None
    if WILDCARDS & set(source) and not is_container(source):
        return split_glob(source)
    raise InputError(f"--watch: {source} is no folder and no glob of images; watch one, or run the command again at times")
