"""Beam transforms: each maps one function of `tsae.jobs`, and holds no logic of its own.

Elements are shards. Only their numbers cross a shuffle; pixels and latents stay within one fused stage, because a
local runner keeps whatever crosses in memory, several times its size.

Each step counts in metrics of the namespace `tsae`: `images_read`, `bytes_read`, `shard_read_ms` and so on. They are for
people who watch: a runner that repeats a bundle may count it twice, so nothing is decided by them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.window import FixedWindows
from apache_beam.utils.timestamp import Timestamp

from tsae.jobs import compress, decompress, stream
from tsae.jobs.decompress import DecompressJob
from tsae.jobs.job_folder import CompressJob
from tsae.jobs.task_results import TaskResult

NAMESPACE = "tsae"
"""Of metrics."""


@dataclasses.dataclass
class ListTasks(beam.PTransform):
    """Nothing -> the numbers of the tasks, shards to make or to read, spread over the workers."""

    tasks: list[int]

    def expand(self, begin: Any) -> beam.PCollection:
        """Reshuffles, so that each worker gets its share however the runner fuses."""
        return begin | beam.Create(self.tasks, reshuffle=False) | beam.Reshuffle()


@dataclasses.dataclass
class ReadImages(beam.PTransform):
    """Shard number -> `TaskImages`, if the shard is not written yet."""

    job: CompressJob

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.compress.read_unfinished`."""
        return shards | beam.ParDo(_Step("read", compress.read_unfinished, self.job))


@dataclasses.dataclass
class EncodeImages(beam.PTransform):
    """`TaskImages` -> `EncodedTask`, with one model per process."""

    job: CompressJob

    def expand(self, images: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.compress.encode_images`."""
        return images | beam.ParDo(_Step("encode", compress.encode_images, self.job, compress.load_codec))


@dataclasses.dataclass
class WriteShard(beam.PTransform):
    """`EncodedTask` -> `TaskResult`, with the shard's files written."""

    job: CompressJob

    def expand(self, encoded: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.compress.write_shard`."""
        return encoded | beam.ParDo(_Step("write", compress.write_shard, self.job))


@dataclasses.dataclass
class CommitArchive(beam.PTransform):
    """All `TaskResult`s -> the manifest, committed once every shard is written."""

    job: CompressJob

    def expand(self, results: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.compress.commit_state` over the list of all results; the caller removes what the job leaves."""
        return results | beam.combiners.ToList() | beam.Map(compress.commit_state, self.job)


@dataclasses.dataclass
class ReadRecords(beam.PTransform):
    """Shard number -> `ShardRecords` whose images are missing."""

    job: DecompressJob

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.decompress.read_records`."""
        return shards | beam.ParDo(_Step("read", decompress.read_records, self.job))


@dataclasses.dataclass
class DecodeImages(beam.PTransform):
    """`ShardRecords` -> `DecodedShard`, with one model per process."""

    job: DecompressJob

    def expand(self, records: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.decompress.decode_images`."""
        return records | beam.ParDo(_Step("decode", decompress.decode_images, self.job, decompress.load_codec))


@dataclasses.dataclass
class WriteImages(beam.PTransform):
    """`DecodedShard` -> `WriteResult`, with the image files written."""

    job: DecompressJob

    def expand(self, images: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.decompress.write_images`."""
        return images | beam.ParDo(_Step("write", decompress.write_images, self.job))


@dataclasses.dataclass
class WriteFailures(beam.PTransform):
    """All `WriteResult`s -> their sum, with the failures table and a report for the process that waits written."""

    job: DecompressJob

    def expand(self, results: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.decompress.write_failures` over the list of all results, and reports what came of it."""
        total = results | beam.combiners.ToList() | beam.Map(decompress.write_failures, self.job)
        return total | beam.Map(decompress.write_report, self.job)


@dataclasses.dataclass
class Every(beam.PTransform):
    """Nothing -> the time by the clock, again and again without end, each time in a window of its own."""

    interval_s: float

    def expand(self, begin: Any) -> beam.PCollection:
        """The engine keeps the time: nothing waits in a worker."""
        clock = PeriodicImpulse(start_timestamp=Timestamp.now(), fire_interval=self.interval_s)
        return begin | clock | beam.WindowInto(FixedWindows(self.interval_s))


@dataclasses.dataclass
class FindBatches(beam.PTransform):
    """Time -> the numbers of the batches that are to be compressed then, spread over the workers."""

    job: CompressJob

    def expand(self, times: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.stream.find_batches` over times one by one, so that one worker looks at the input."""
        return times | beam.FlatMap(_find_batches, self.job) | beam.Reshuffle()


@dataclasses.dataclass
class ReadBatch(beam.PTransform):
    """Number of a batch -> `TaskImages`, unless it is committed."""

    job: CompressJob

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.stream.read_batch`."""
        return batches | beam.ParDo(_Step("read", stream.read_batch, self.job))


@dataclasses.dataclass
class CommitBatches(beam.PTransform):
    """The `TaskResult`s of a window -> the numbers of their batches, once these are committed."""

    job: CompressJob

    def expand(self, results: beam.PCollection) -> beam.PCollection:
        """Maps `tsae.jobs.stream.commit_batches` over windows; what is to be committed, it finds in the job folder."""
        groups = results | beam.Map(_number) | beam.GroupByKey()
        return groups | beam.FlatMap(_commit_batches, self.job)


def _find_batches(time: Any, job: CompressJob) -> list[int]:
    return stream.find_batches(float(time), job)


def _number(result: TaskResult) -> tuple[None, int]:
    return None, result.task


def _commit_batches(group: tuple[None, Iterable[int]], job: CompressJob) -> Iterable[int]:
    stream.commit_batches(job)
    return group[1]


class _Step(beam.DoFn):
    """Maps a function; loads the codec before the first element, where it uses one.

    Metrics: the counters that the results tell by `counts`, and a distribution `shard_read_ms` for a step called "read": the
    milliseconds that each shard took.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Any, Any], Any],
        job: Any,
        load_codec: Callable[[Any], Any] | None = None,
    ) -> None:
        self._name, self._function, self._job, self._load_codec = name, function, job, load_codec

    def setup(self) -> None:
        if self._load_codec is not None:
            self._load_codec(self._job)

    def process(self, element: Any) -> Any:
        started_s = time.perf_counter()
        result = self._function(element, self._job)
        if result is None:  # done already
            return
        Metrics.distribution(NAMESPACE, f"shard_{self._name}_ms").update(round((time.perf_counter() - started_s) * 1000))
        for name, count in result.counts().items():
            Metrics.counter(NAMESPACE, name).inc(count)
        yield result
