"""Removing what no state of an archive needs any more: after a commit, and what killed jobs have left."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

from tsae.archive.commit import read_lists
from tsae.archive.files import JOB_FOLDER, MANIFEST_FILE, PLAN_FILE, digest, is_leftover, run_name
from tsae.archive.manifest import Manifest, read_manifest
from tsae.archive.states import held_states, state_file
from tsae.errors import InputError, TsaeError
from tsae.paths import Folder, is_url

GRACE_S = 300.0
"""How long files of an old state stay in a store, where no reader can say that it needs them, if other commits follow soon."""


def clean_up(
    archive: Folder,
    manifest: Manifest,
    base: Manifest | None,
    first: Sequence[str] = (),
    is_ours: Callable[[], bool] = lambda: True,
) -> None:
    """Removes what of an archive's own files its manifest does not name; files that no job of tsae's wrote stay.

    Args:
        archive: Its place.
        manifest: Its state.
        base: The state before.
        first: What must go first, so that a job killed from here on is known to be committed.
        is_ours: Whether the job still owns the archive; asked when all that will be removed is known, so that nothing
            is that another command has written since it took over.

    Raises:
        InputError: if a file cannot be removed.
    """
    with _one_error(archive):
        leftovers = find_leftovers(archive, manifest, base)
        if is_ours():
            _remove(archive, leftovers, first)


def find_leftovers(archive: Folder, manifest: Manifest, base: Manifest | None = None) -> set[str]:
    """An archive's own files that neither its manifest nor an old state that somebody reads names; those of jobs too.

    Args:
        archive: Its place.
        manifest: Its state.
        base: The state before, whose model may be one of them.

    Raises:
        OSError: if they cannot be listed.
        TsaeError: if a list of the manifest is damaged.
    """
    replaced = {base.model_file} if base is not None else set()
    leftovers = {name for name in archive.sizes_bytes() if is_leftover(name)} | replaced
    leftovers -= named_files(archive, manifest)
    for name, state in held_states(archive).items():
        leftovers.discard(name)
        with contextlib.suppress(TsaeError):  # who reads a damaged state, or one of a newer version, finds that out
            leftovers -= named_files(archive, state)
    report = run_name(digest(manifest.to_json()), "").removesuffix(".json")
    return leftovers - {name for name in leftovers if name.startswith(report)}


def clean_up_job(archive: Folder, first: Sequence[str], is_ours: Callable[[], bool]) -> None:
    """Removes the job folder only, for who knows what else a commit has left: the archive is not listed.

    Args:
        archive: Its place.
        first: As for `clean_up`.
        is_ours: As for `clean_up`.

    Raises:
        InputError: if a file cannot be removed.
    """
    with _one_error(archive):
        found = {f"{JOB_FOLDER}/{name}" for name in Folder(f"{archive.path}/{JOB_FOLDER}").sizes_bytes()}
        if is_ours():
            _remove(archive, {name for name in found if is_leftover(name)}, first)


@contextlib.contextmanager
def _one_error(archive: Folder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{archive.path}: complete, but leftovers cannot be removed ({reason}); remove them") from error


def _remove(archive: Folder, leftovers: Set[str], first: Sequence[str]) -> None:
    jobs = {name for name in leftovers if name.startswith(f"{JOB_FOLDER}/")}
    # The plan last: as long as something is left, there is a job to resume.
    for names in (first, leftovers - jobs, jobs - {PLAN_FILE}, [PLAN_FILE]):
        archive.remove(sorted(names))


class Waste:
    """What the commits of one process have left, which goes when nobody needs it; for who commits again and again.

    On a local disk that is when no state is held that is as old as the one that they replaced; in a store, after `GRACE_S`.
    """

    def __init__(self, archive: Folder, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts with nothing.

        Args:
            archive: Its place.
            clock: Seconds.
        """
        self._archive, self._clock = archive, clock
        self._parts: collections.deque[tuple[str, float, frozenset[str]]] = collections.deque()

    def add(self, replaced: bytes, names: Iterable[str]) -> None:
        """Notes what a commit has left.

        Args:
            replaced: The manifest that it replaced.
            names: Files that only this state, or older ones, name.
        """
        self._parts.append((state_file(replaced), self._clock(), frozenset(names)))

    def remove(self) -> None:
        """Removes what nobody needs any more.

        Raises:
            InputError: if a file cannot be removed.
        """
        with _one_error(self._archive):
            held = held_states(self._archive).keys()
            if not held <= {state for state, _, _ in self._parts}:
                return  # an older one, which may name anything
            while self._parts and self._is_free(*self._parts[0][:2], held):
                self._archive.remove(sorted(self._parts[0][2] - self._named_again(self._parts[0][2])))
                self._parts.popleft()

    def _named_again(self, names: Set[str]) -> Set[str]:
        """What the archive's present state names: a record that is again as it was gives a file that was there before."""
        if not self._archive.exists(MANIFEST_FILE):
            return set()
        manifest = read_manifest(self._archive)
        is_shallow = all(name.startswith(("lists/", "failures/")) for name in names)
        return manifest.files if is_shallow else named_files(self._archive, manifest)

    def _is_free(self, state: str, since_s: float, held: Set[str]) -> bool:
        return self._clock() - since_s >= GRACE_S if is_url(self._archive.path) else state not in held


def named_files(archive: Folder, manifest: Manifest) -> set[str]:
    """All files that a manifest and its lists name.

    Raises:
        FormatError: if a list is missing or another one.
        CorruptDataError: if a list cannot be read.
    """
    named = set(manifest.files)
    for shards in read_lists(archive, manifest.lists):
        named |= shards.files()
    return named
