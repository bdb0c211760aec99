"""benchmarks/scale_model.py: its arithmetic by hand, and made-up archives that are as real ones are."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tsae import archive as ar
from tsae.jobs.plan import SHARD_IMAGES, cut
from tsae.paths import Folder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scale_model
from scale import model, synthetic
from scale.model import Costs, Prices, Store
from scale.requests import kind_of

NOTHING = {"job": 0.0, "shard": 0.0, "image": 0.0, "list": 0.0, "part": 0.0}
REQUESTS = {
    "PUT": {**NOTHING, "job": 5.0, "shard": 3.0, "list": 1.0, "part": 1.0},
    "LIST": {**NOTHING, "job": 7.0},
    "GET": {**NOTHING, "shard": 4.0, "image": 1.0},
    "HEAD": {**NOTHING, "shard": 1.0, "image": 1.0},
    "DELETE": NOTHING,
}
COSTS = Costs(
    start_s=2.0,
    image_s=1e-3,
    list_s={"list": 1e-6, "containers": 2e-6, "files": 4e-5},
    key_bytes={"list": 40.0, "containers": 80.0, "files": 90.0},
    plan_s=1e-7,
    pages_at_once=16,
    reads_at_once=16,
    containers_at_once=16,
    task_plan_bytes=(65_000, 0.0),
    task_plan_s=(0.0, 0.0),
    commit_s=1e-4,
    entry_bytes=650.0,
    result_bytes=3300.0,
    update_s=1e-5,
    requests={"files": REQUESTS, "container": REQUESTS},
)


@pytest.mark.parametrize("images", [1, 5000, 20_000, 10**6, 10**8])
def test_shards_are_counted_as_the_plan_cuts_them(images: int) -> None:
    count = model.pieces(images)
    assert (count["shard"], count["image"], count["job"]) == (len(cut(range(images))), images, 1)


def test_time_is_serial_parts_and_whole_tasks_shared_by_workers() -> None:
    stages = {stage.name: stage for stage in model.stages(10**6, 10, "list", COSTS, None)}
    assert model.pieces(10**6)["shard"] == 248
    assert stages["list"].seconds == pytest.approx(1.0)
    assert stages["plan"].seconds == pytest.approx(0.1)
    assert stages["encode"].seconds == pytest.approx(25 * 10**6 / 248 * 1e-3)  # the last round is not full
    assert stages["commit"].seconds == pytest.approx(0.0248)
    assert [name for name, stage in stages.items() if stage.is_parallel] == ["encode"]
    assert model.wall_s(10**6, 10, "list", COSTS, None) == pytest.approx(sum(stage.seconds for stage in stages.values()))
    assert model.encode_s(10**6, 1000, "list", COSTS, None) == pytest.approx(10**6 / 248 * 1e-3)  # one task each


def test_listing_a_store_takes_the_longer_of_asking_and_reading() -> None:
    store = Store(latency_s=0.03, page_s=0.1)

    def listing_s(costs: Costs) -> float:
        return next(stage.seconds for stage in model.stages(10**6, 1, "files", costs, store) if stage.name == "list")

    assert listing_s(COSTS) == pytest.approx(40.0)
    assert listing_s(dataclasses.replace(COSTS, list_s={"files": 1e-6})) == pytest.approx(1000 * 0.1 / 16)
    assert listing_s(dataclasses.replace(COSTS, pages_at_once=1)) == pytest.approx(40 + 100)


def test_requests_and_their_price() -> None:
    found = model.requests(10**6, "files", COSTS)
    assert found["PUT"] == 5 + 3 * 248 + 1 + 4
    assert found["GET"] == 4 * 248 + 10**6
    assert found["LIST"] == pytest.approx(7 + (4 * 248 + 4) / 1000 + 1000)
    paid = model.price(10**6, 9, "files", COSTS, Store(), Prices(put=5, get=0.4, core_hour=0.05))
    assert paid["requests"] == pytest.approx(((found["PUT"] + found["LIST"]) * 5 + (found["GET"] + found["HEAD"]) * 0.4) / 1e6)
    wall_s = model.wall_s(10**6, 9, "files", COSTS, Store())
    assert paid["cores"] == pytest.approx(wall_s / 3600 * 10 * 0.05)
    assert model.requests(10**6, "list", COSTS)["GET"] == 4 * 248


def test_what_gives_way_first() -> None:
    assert model.limits(10**9, 100, "files", COSTS, Store())[0].name.startswith("memory")
    assert all(limit.share < 1 for limit in model.limits(10**7, 100, "list", COSTS, Store()))
    broken = dataclasses.replace(COSTS, most_key_bytes=2**31)
    first = model.limits(10**8, 10, "containers", broken, Store())[0]
    assert first.name.startswith("Arrow")
    assert first.share == pytest.approx(34e8 / 2**31)


def test_an_update_compares_in_one_process() -> None:
    assert model.update_s(10**6, "list", COSTS, None) == pytest.approx(2 + 1 + 10)
    store = Store(latency_s=0.04)
    assert model.update_s(10**6, "list", COSTS, store) == pytest.approx(13 + 3 * 248 / 8 * 0.04)


def test_encoding_follows_from_two_runs() -> None:
    shares = {10_000: 2 / 3, 100_000: 1 / 2}  # three tasks, of which one of two workers has two; and 32
    rows = [{"direction": "compress", "images": n, "wall_s": 2 + n * share * 4e-4} for n, share in shares.items()]
    assert model.encoding(rows) == pytest.approx((4e-4, 2.0))


def test_kinds_of_requests() -> None:
    kinds = [kind_of("GET", "list-type=2&prefix=x"), kind_of("GET", ""), kind_of("POST", "delete"), kind_of("PUT", "")]
    assert kinds == ["LIST", "GET", "DELETE", "PUT"]


def test_the_results_in_the_repository_are_of_this_model() -> None:
    """And it is right within a fifth where it can be checked, and nothing gives way up to 10^8 images."""
    folder = Path(scale_model.__file__).parent / "results"
    result = json.loads((folder / "scale_model.json").read_text())
    _, now = scale_model.load(folder)
    assert scale_model.checks(folder, now) == result["checks"]
    assert scale_model.predictions(now, Store(), Prices()) == result["rows"]
    assert all(abs(row["error"]) < 0.2 for row in result["checks"])
    assert all(row["share"] < 1 for row in result["breaks"] if row["images"] <= 10**8 and row["source"] != "files")


def test_made_up_keys_are_those_one_by_one() -> None:
    numbers = np.array([0, 29, 30, 29_999, 30_000, 123_456_789, 999_999_999])
    assert synthetic.keys(numbers).to_pylist() == [synthetic.key(number) for number in numbers.tolist()]
    shuffled = np.concatenate(list(synthetic.number_batches(1000, shuffled=True)))
    assert sorted(shuffled.tolist()) == list(range(1000))


def test_a_made_up_archive_is_found_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its lists are read, entries of shards that are not there are those of real ones, and the one key is there."""
    monkeypatch.setattr(synthetic, "TEMPLATES", 2)
    monkeypatch.setattr(synthetic, "LIST_SHARDS", 4)
    images = 6 * SHARD_IMAGES
    synthetic.described(Folder(str(tmp_path)), images, images - 10)
    files = ar.ArchiveFiles(str(tmp_path))
    assert (files.manifest.images, files.shards, len(files.manifest.lists)) == (images, 6, 2)
    assert files.records([synthetic.key(images - 10)]).keys == [synthetic.key(images - 10)]
    for shard in range(files.shards):
        described = files.shard(shard)  # refused unless footer and entry agree
        assert described.describe(0)[0] == synthetic.key(shard * SHARD_IMAGES)
        assert described.describe(-1)[1] == synthetic.key((shard + 1) * SHARD_IMAGES - 1)
    assert len(list((tmp_path / "shards").iterdir())) == 3
