"""The arithmetic of a job of any size: seconds of each stage, requests and their price, memory, and what gives way first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

SHARD_IMAGES, LIST_SHARDS, PART_TASKS = 4096, 1024, 64
PAGE_NAMES = 1000
CONTAINER_IMAGES = 100_000
"""Images of a Parquet file of an input, where nothing else is said."""

BASE_BYTES = 110e6
"""Of a process that has imported all, and listed nothing."""

SOURCES = ("list", "containers", "files")
"""A list of paths on a disk; Parquet files in a store; a folder of files in a store."""

COUNTS = ("job", "shard", "image", "list", "part")
"""What requests are made for: once, for each shard, image, list of shards, and file of the plan."""


@dataclasses.dataclass(frozen=True)
class Prices:
    """Assumed list prices in US dollars, of November 2026: an object store and a general-purpose machine, one large region.

    Attributes:
        put: Of a million requests that write or list.
        get: Of a million requests that read.
        core_hour: Of a core.
        gb_month: Of storing a GB for a month.
    """

    put: float = 5.0
    get: float = 0.4
    core_hour: float = 0.045
    gb_month: float = 0.023


@dataclasses.dataclass(frozen=True)
class Store:
    """An object store, as it answers.

    Attributes:
        latency_s: Of a small request.
        page_s: Of a page of a listing.
    """

    latency_s: float = 0.03
    page_s: float = 0.1


@dataclasses.dataclass(frozen=True)
class Costs:
    """Unit costs of one design, measured unless `measured_costs` says otherwise.

    Attributes:
        start_s: Until the first image is worked on, and after the last.
        image_s: Of a core for an image: read, decode, encode, verify, write.
        list_s: Of the parent for a key, by source.
        key_bytes: Of the parent's memory for a key at its peak, by source.
        plan_s: Of the parent for a key.
        pages_at_once: Of a listing of a store.
        reads_at_once: Images that a worker asks a store for.
        containers_at_once: That are listed.
        task_plan_bytes: What a worker reads of the plan for a task, of a job of so many tasks: constant and for each task.
        task_plan_s: Seconds that takes to parse, likewise.
        commit_s: Of the parent for a shard: lists, counts, manifest, names of all files.
        entry_bytes: Of a list for a shard.
        result_bytes: Of a task's result, as Beam carries it.
        update_s: Of the parent for a record that is compared with its input.
        requests: By kind, for each of `COUNTS`.
        most_key_bytes: All keys together may not take more; None is no limit.
        most_versions: Files of a store that a listing can hold; None is no limit.
    """

    start_s: float
    image_s: float
    list_s: Mapping[str, float]
    key_bytes: Mapping[str, float]
    plan_s: float
    pages_at_once: int
    reads_at_once: int
    containers_at_once: int
    task_plan_bytes: tuple[float, float]
    task_plan_s: tuple[float, float]
    commit_s: float
    entry_bytes: float
    result_bytes: float
    update_s: float
    requests: Mapping[str, Mapping[str, Mapping[str, float]]]
    most_key_bytes: float | None = None
    most_versions: float | None = None


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a job.

    Attributes:
        name: What is done.
        seconds: How long it takes.
        is_parallel: Whether more workers make it shorter.
    """

    name: str
    seconds: float
    is_parallel: bool = False


@dataclasses.dataclass(frozen=True)
class Limit:
    """Something that gives way at some size.

    Attributes:
        name: What it is.
        value: How much of it there is.
        most: How much there can be.
    """

    name: str
    value: float
    most: float

    @property
    def share(self) -> float:
        """More than 1 where it has given way."""
        return self.value / self.most


def pieces(images: int) -> dict[str, int]:
    """How many there are of each of `COUNTS`."""
    shards = -(-images // SHARD_IMAGES)
    shards = shards if shards <= 4 else -(-shards // 8) * 8
    return {"job": 1, "shard": shards, "image": images, "list": -(-shards // LIST_SHARDS), "part": -(-shards // PART_TASKS)}


def requests(images: int, source: str, costs: Costs) -> dict[str, float]:
    """Requests by kind of a job whose archive is in a store; the pages of listings come on top of what was counted."""
    count = pieces(images)
    kind = "container" if source == "containers" else "files"
    found = {
        name: sum(each[piece] * count[piece] for piece in COUNTS if source != "list" or piece != "image")
        for name, each in costs.requests[kind].items()
    }
    files = 4 * count["shard"] + count["part"]  # when all that is left of the job is removed
    found["LIST"] += files / PAGE_NAMES + (images / PAGE_NAMES if source == "files" else 0)
    found["DELETE"] += (count["shard"] + count["part"]) / PAGE_NAMES
    if source == "containers":
        found["GET"] += 4 * images / CONTAINER_IMAGES
    return found


def price(images: int, workers: int, source: str, costs: Costs, store: Store, prices: Prices) -> dict[str, float]:
    """US dollars by what they are paid for; the parent is a core, and all cores are paid for until the end."""
    found = requests(images, source, costs)
    asked = (found["PUT"] + found["LIST"]) * prices.put / 1e6 + (found["GET"] + found["HEAD"]) * prices.get / 1e6
    seconds = sum(stage.seconds for stage in stages(images, workers, source, costs, store))
    return {"requests": asked, "cores": seconds / 3600 * (workers + 1) * prices.core_hour}


def stages(images: int, workers: int, source: str, costs: Costs, store: Store | None) -> list[Stage]:
    """The stages of a job, one after the other.

    Args:
        images: In the input.
        workers: Cores, besides the parent's.
        source: One of `SOURCES`.
        costs: Of the design.
        store: Where the archive is, and the input unless that is a list; None is a disk for all.
    """
    count = pieces(images)
    return [
        Stage("start", costs.start_s),
        Stage("list", _listing_s(images, source, costs, store)),
        Stage("plan", images * costs.plan_s + _waits_s(count["part"], costs.pages_at_once, store)),
        Stage("encode", encode_s(images, workers, source, costs, store), is_parallel=True),
        Stage("commit", count["shard"] * costs.commit_s + _waits_s(3 * count["list"], 1, store)),
        Stage("clean up", _cleanup_s(count, costs, store)),
    ]


def wall_s(images: int, workers: int, source: str, costs: Costs, store: Store | None) -> float:
    """Seconds of the whole job."""
    return sum(stage.seconds for stage in stages(images, workers, source, costs, store))


def update_s(images: int, source: str, costs: Costs, store: Store | None) -> float:
    """Seconds until it is known that nothing has changed; one process does that, with eight shards of a store under way."""
    compared_s = images * costs.update_s + _waits_s(3 * pieces(images)["shard"], 8, store)
    return costs.start_s + _listing_s(images, source, costs, store) + compared_s


def _waits_s(requests: float, at_once: int, store: Store | None) -> float:
    return 0.0 if store is None else math.ceil(requests / at_once) * store.latency_s


def _listing_s(images: int, source: str, costs: Costs, store: Store | None) -> float:
    busy_s = images * costs.list_s[source]
    if store is None or source == "list":
        return busy_s
    if source == "containers":
        return busy_s + _waits_s(4 * images / CONTAINER_IMAGES, costs.containers_at_once, store)
    waiting_s = images / PAGE_NAMES * store.page_s / costs.pages_at_once
    return busy_s + waiting_s if costs.pages_at_once == 1 else max(busy_s, waiting_s)


def encode_s(images: int, workers: int, source: str, costs: Costs, store: Store | None) -> float:
    """Seconds until the last task is done: whole tasks, which the workers share evenly."""
    count = pieces(images)
    tasks = count["shard"]
    of_task = images / max(1, tasks)
    fixed_s, each_s = costs.task_plan_s
    task_s = of_task * costs.image_s + fixed_s + each_s * tasks
    if store is not None:
        kinds = costs.requests["container" if source == "containers" else "files"]
        task_s += store.latency_s * sum(kinds[name]["shard"] for name in ("PUT", "GET", "HEAD"))
        if source == "files":
            reading_s = of_task * store.latency_s * (kinds["GET"]["image"] + kinds["HEAD"]["image"]) / costs.reads_at_once
            task_s += max(0.0, reading_s - of_task * costs.image_s / 4)  # what it computes, other threads wait meanwhile
    return math.ceil(tasks / workers) * task_s


def _cleanup_s(count: Mapping[str, int], costs: Costs, store: Store | None) -> float:
    files = 4 * count["shard"] + count["part"]
    if store is None:
        return files * 2e-5
    pages = files / PAGE_NAMES
    return pages * store.page_s / costs.pages_at_once + (count["shard"] + count["part"]) / PAGE_NAMES * store.page_s


def parent_bytes(images: int, source: str, costs: Costs) -> float:
    """Memory of the process that lists, plans and commits."""
    return BASE_BYTES + images * costs.key_bytes[source] + pieces(images)["shard"] * costs.result_bytes


def sizes_bytes(images: int, costs: Costs) -> dict[str, float]:
    """Of what describes an archive, and what finding one key reads."""
    count = pieces(images)
    lists = count["shard"] * costs.entry_bytes
    manifest = 1150 + 285 * max(0, count["list"] - 1)
    return {"manifest": manifest, "lists": lists, "one list": min(count["shard"], LIST_SHARDS) * costs.entry_bytes}


def limits(images: int, workers: int, source: str, costs: Costs, store: Store, key_bytes: int = 21) -> list[Limit]:
    """What can give way, the nearest to it first."""
    count, found = pieces(images), stages(images, workers, source, costs, store)
    by_name = {stage.name: stage.seconds for stage in found}
    fixed, each = costs.task_plan_bytes
    result = [
        Limit("memory of the parent, 16 GB", parent_bytes(images, source, costs), 16e9),
        Limit("listing takes longer than encoding", by_name["list"], by_name["encode"]),
        Limit("planning takes longer than encoding", by_name["plan"], by_name["encode"]),
        Limit("commit takes longer than encoding", by_name["commit"] + by_name["clean up"], by_name["encode"]),
        Limit("a task reads more of the plan than its images' 16 MB", fixed + each * count["shard"], 16e6),
        Limit("Beam's list of all results is one element, 2 GB", count["shard"] * costs.result_bytes, 2**31),
        Limit("manifest, 64 MB", sizes_bytes(images, costs)["manifest"], 2**26),
    ]
    if costs.most_key_bytes is not None and source != "files":
        prefix = 13 if source == "containers" else 0
        result.append(Limit("Arrow casts no 2 GB of keys", images * (key_bytes + prefix), costs.most_key_bytes))
    if costs.most_versions is not None and source == "files":
        result.append(Limit("a dictionary holds no 2 GB of versions", images, costs.most_versions))
    return sorted(result, key=lambda limit: -limit.share)


def measured_costs(
    rows: Sequence[Mapping[str, Any]], scaling: Sequence[Mapping[str, Any]], counted: Mapping[str, Any], is_before: bool
) -> Costs:
    """Unit costs of the present design, or of the one before it, from what was measured.

    Args:
        rows: Of `scale_parts.py`, each part at its largest size.
        scaling: Of `scaling.py`: an image's cost follows from what ten times as many took, the start from the rest.
        counted: Of `scale/requests.py`.
        is_before: Which design.
    """
    large = {row["part"]: row for row in sorted(rows, key=lambda row: row["images"]) if "failed" not in row}
    image_s, start_s = encoding(scaling)
    found = "s3list" if is_before else "found"
    keys = {part: _slope(rows, part, "list") for part in ("list", "containers", found)}
    commit, opened = large["commit"], large["open"]
    commit_s = sum(commit[stage]["s"] for stage in ("lists", "count", "manifest", "named_files")) / opened_shards(commit)
    groups = 24_415
    return Costs(
        start_s=start_s,
        image_s=image_s,
        list_s={
            "list": large["list"]["list"]["s"] / large["list"]["images"],
            "containers": large["containers"]["list"]["s"] / large["containers"]["images"],
            "files": large["s3list"]["cpu_s"] / large["s3list"]["images"],
        },
        key_bytes={"list": keys["list"], "containers": keys["containers"], "files": keys[found]},
        plan_s=large["list"]["plan"]["s"] / large["list"]["images"],
        pages_at_once=1 if is_before else 16,
        reads_at_once=16,
        containers_at_once=1 if is_before else 16,
        task_plan_bytes=(20_000, 686.0 + 3 * 8) if is_before else (200_000, 0.0),
        task_plan_s=(0.004, 0.1 / groups) if is_before else (0.005, 0.0),
        commit_s=commit_s,
        entry_bytes=opened["list_bytes"] / opened["shards"],
        result_bytes=commit["pickled_bytes_per_result"],
        update_s=large["update"]["find_changes"]["s"] / large["update"]["images"],
        requests=counted,
        most_key_bytes=2**31 if is_before else None,
        most_versions=2**31 / 34 if is_before else None,
    )


def opened_shards(row: Mapping[str, Any]) -> int:
    """Shards of a size, as the made-up archives have them."""
    return -(-int(row["images"]) // SHARD_IMAGES)


def encoding(scaling: Sequence[Mapping[str, Any]], workers: int = 2) -> tuple[float, float]:
    """Seconds of a core for an image, and of a job for its start and end: what 10,000 and 100,000 images took tells both."""
    walls = {row["images"]: row["wall_s"] for row in scaling if row["direction"] == "compress"}
    few, many = (_images_of_a_worker(images, workers) for images in (10_000, 100_000))
    image_s = (walls[100_000] - walls[10_000]) / (many - few)
    return image_s, walls[10_000] - image_s * few


def _images_of_a_worker(images: int, workers: int) -> float:
    """Of the one that has most, as tasks are not divided: of 3 tasks, one of two workers has 2."""
    tasks = pieces(images)["shard"]
    return math.ceil(tasks / workers) * images / tasks


def _slope(rows: Sequence[Mapping[str, Any]], part: str, stage: str) -> float:
    """Bytes of memory that each image takes more, between a part's largest size and its smallest."""
    sizes = sorted((row["images"], row[stage]["peak_mb"]) for row in rows if row["part"] == part and stage in row)
    (few, small), (many, large) = sizes[0], sizes[-1]
    return float((large - small) * 1e6 / (many - few)) if many > few else (large - 90) * 1e6 / many
