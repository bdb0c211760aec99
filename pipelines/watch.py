"""Images that keep coming: `tsae compress --watch` brings an archive up to date again and again, in small commits.

Each is a job like any other, so a kill at any moment leaves one that the next start finishes. What a commit costs does not
grow with the archive, nor a look with the input, where the file system tells which folders have changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from pipelines.compress import Outcome, compress_listing, open_state, resume_job, start_workers
from pipelines.options import DEFAULT_WATCH_S, CompressOptions
from pipelines.request import Request, prepare
from tsae import archive as ar
from tsae import log
from tsae.errors import BusyError, CorruptDataError, FormatError
from tsae.inputs import NOWHERE, Listing, Lookout, Sighting, list_inputs
from tsae.jobs.claim import holds_job
from tsae.jobs.compress import commit_archive, compress_task
from tsae.jobs.job_folder import read_or_none
from tsae.jobs.plan import SHARD_IMAGES, find_state, plan
from tsae.jobs.update import Changes, find_additions

MOST_IMAGES = 16 * SHARD_IMAGES
"""Of one commit; it bounds what is in memory, and how long a backlog stays invisible."""

MANY_SHARDS = 1000
"""How many shards more than the images need it is told of: one image takes a second to find, as it may be in each of them."""

SLICE_S = 0.1
"""How soon a wait notices that it is to end."""


class Stop:
    """Whether the watch was asked to end, by the first SIGTERM or Ctrl-C; a second one ends the process as ever."""

    def __init__(self) -> None:
        self.is_asked = False
        self.can_interrupt = False

    def wait(self, seconds: float) -> None:
        """Waits, unless it is to end."""
        deadline = time.monotonic() + seconds
        while not self.is_asked and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, SLICE_S))

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block, long work, the first signal ends it as any job: one that can be resumed."""
        self.can_interrupt = True
        try:
            yield
        finally:
            self.can_interrupt = False

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within the block, signals ask for the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def ask(number: int, frame: FrameType | None) -> None:
            handler = before[signal.Signals(number)]
            if (self.is_asked or self.can_interrupt) and callable(handler):
                handler(number, frame)
            self.is_asked = True

        try:
            for number in before:
                signal.signal(number, ask)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def watch(options: CompressOptions, stop: Stop | None = None) -> Outcome | None:
    """Compresses what the input has, then what comes, until it is asked to end.

    Args:
        options: As of `compress`; `watch_s` is for how many seconds a file must not have changed to be taken, and how
            often the input is looked at.
        stop: Asks for the end; None is by signals.

    Returns:
        The last state, and the number of images that were worked on; None if no image came.

    Raises:
        TsaeError: if something cannot be used, or writing fails; the same command then goes on.
    """
    with contextlib.ExitStack() as stack:
        if stop is None:
            stop = Stop()
            stack.enter_context(stop.on_signals())
        return _Watch(prepare(options), stop).run()


class _Watch:
    """A watch and what it knows of its archive."""

    def __init__(self, request: Request, stop: Stop) -> None:
        self._request, self._stop, self._archive = request, stop, request.archive
        self._lookout = Lookout(request.options.input, request.options.watch_s or DEFAULT_WATCH_S)
        self._waste: ar.Waste | None = None  # the first commit looks for what killed jobs have left
        self._base: bytes | None = None
        self._is_alone = True  # nobody else has committed: what was not known, the archive has not
        self._outcome: Outcome | None = None
        self._done = 0
        self._has_waited = False
        self._many = 0  # thousands of shards that were told of

    def run(self) -> Outcome | None:
        """Until it is asked to end."""
        if holds_job(self._archive):
            with self._stop.interrupting():
                self._note(resume_job(self._request))
        while not self._stop.is_asked:
            try:
                self._step()
                self._has_waited = False
            except BusyError as error:
                self._tell_busy(error)
            self._stop.wait(self._lookout.wait_s())
        if self._waste is not None:
            self._waste.remove()
        return self._outcome and dataclasses.replace(self._outcome, done=self._done)

    def _step(self) -> None:
        before = read_or_none(self._archive, ar.MANIFEST_FILE)
        try:
            if self._base is None or self._lookout.is_stale:
                self._catch_up()
            else:
                self._add()
        except (CorruptDataError, FormatError) as error:
            if read_or_none(self._archive, ar.MANIFEST_FILE) == before:
                raise
            self._base = None  # what was read has gone, as a compaction has written it anew
            raise BusyError(f"{self._archive.path}: another command has changed it meanwhile; looking again") from error

    def _catch_up(self) -> None:
        """Compares the whole input with the whole archive."""
        self._base = None  # if another command is in the way, this has to be done again: the lookout knows the files already
        options = self._request.options
        base = find_state(options.input, options.archive, overwrite=False)
        self._lookout.begin()
        listing = self._lookout.begun(list_inputs(options.input, may_be_empty=True))
        if base is None and not listing.keys:
            return  # an archive begins with its first images
        with self._stop.interrupting():
            self._note(compress_listing(self._request, listing, base))
        self._base = ar.read_manifest_text(self._archive)
        self._is_alone = True
        files = ar.ArchiveFiles(self._archive.path, self._base)
        for shard in range(files.shards):
            self._lookout.know(files.shard(shard).keys(), shard)

    def _add(self) -> None:
        """Compresses what is ready and was not known."""
        if holds_job(self._archive):
            raise BusyError(f"{self._archive.path}: another command is at work there, or was killed; waiting for it")
        sighting = self._lookout.look(MOST_IMAGES)
        if sighting is None or self._lookout.is_stale:
            return
        base = ar.read_manifest_text(self._archive)
        self._is_alone &= base == self._base
        files = open_state(self._request, dataclasses.replace(self._request.settings, root=self._lookout.root), base)
        listing = dataclasses.replace(sighting.listing, skipped=files.manifest.counts.skipped)
        changes = find_additions(listing, self._shards_of(sighting, files), files)
        failed: set[str] = set()
        places: dict[str, int] = {}
        if changes.is_needed:
            manifest, places = self._compress(listing, changes, files)
            self._note(Outcome(manifest, sum(len(task.rows) for task in changes.tasks), changes))
            base = ar.read_manifest_text(self._archive)
            failed = {failure.path for failure in ar.ArchiveFiles(self._archive.path, base).failures()}
        self._base = base
        self._lookout.done(sighting, failed, {key: place for key, place in places.items() if key not in failed})

    def _shards_of(self, sighting: Sighting, files: ar.ArchiveFiles) -> list[int | None]:
        """Which shard has each key: from memory, or looked up in the archive once somebody else has changed it."""
        if self._is_alone:
            return [None if place == NOWHERE else place for place in sighting.places.tolist()]
        return [files.shard_of(key) for key in sighting.listing.keys]

    def _compress(self, listing: Listing, changes: Changes, files: ar.ArchiveFiles) -> tuple[ar.Manifest, dict[str, int]]:
        """Commits changes; returns the new state, and by key the shards of new images, those that failed among them."""
        request, images = self._request, sum(len(task.rows) for task in changes.tasks)
        with start_workers(request, images, len(changes.tasks)) as workers:
            job = plan(
                listing,
                changes.tasks,
                self._archive,
                request.model_file,
                files.manifest.settings,
                files.manifest_text,
                True,
                changes.failures,
                request.options.device,
                classifier=request.classifier_file,
            )
            with self._stop.interrupting() if images > SHARD_IMAGES else contextlib.nullcontext():
                results = workers.map(compress_task, range(job.tasks), job)
            manifest = commit_archive(results, job, self._waste)
        self._waste = self._waste or ar.Waste(self._archive)
        new = [task for task, result in zip(changes.tasks, results, strict=True) if result.shard and task.replaces is None]
        return manifest, {
            key: files.shards + i for i, task in enumerate(new) for key in listing.select(task.rows)["key"].to_pylist()
        }

    def _note(self, outcome: Outcome) -> None:
        """Tells of a commit."""
        self._outcome, self._done = outcome, self._done + outcome.done
        changes, counts = outcome.changes, outcome.manifest.counts
        if changes is not None and not changes.is_needed:
            return
        new, changed = (outcome.done, 0) if changes is None else (changes.new, changes.changed)
        facts: dict[str, Any] = {"new": new, "changed": changed, "failures": counts.failures, "images": counts.images}
        self._tell_many(counts)
        log.say("committed", f"{new} new, {changed} changed; {counts.images} images, {counts.failures} failures", **facts)

    def _tell_many(self, counts: ar.Counts) -> None:
        many = (counts.shards - counts.images // SHARD_IMAGES) // MANY_SHARDS
        if many > self._many:
            log.say(
                "many_shards",
                f"{counts.shards} shards; tsae compact {self._archive.path} makes few of them, also now",
                "warning",
            )
        self._many = many

    def _tell_busy(self, error: BusyError) -> None:
        if not self._has_waited:
            log.say("waiting", str(error), "warning")
        self._has_waited = True
