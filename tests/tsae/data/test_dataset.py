"""Archives as torch data sets, by torch's own DataLoader: what comes, in which order, with any workers, and after a stop."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

import tsae
from tsae.archive import RowGroups, Shard, shards
from tsae.cli import main
from tsae.data import Batch, LatentDataset, LatentLoader, LatentStream, cache, collate
from tsae.errors import CorruptDataError, InputError

MODELS = ("tsae", "seed-8x8x8")

KINDS = ("latents", "floats", "pixels")


@pytest.fixture(scope="module")
def archives(signs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An archive of each model, in row groups of a few images; one image is stored losslessly as well."""
    base = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_BYTES", 1_200)
        for model in MODELS:
            assert main(["compress", str(signs_dir), str(base / model), "--model", model, "--workers=1", "--min-psnr=24"]) == 0
    return {model: str(base / model) for model in MODELS}


def expected(path: str, kind: str) -> np.ndarray:
    """All values in the order of positions, by the reader."""
    with tsae.open_archive(path) as archive:
        if kind == "pixels":
            return archive[:].transpose(0, 3, 1, 2)
        latents = archive.latents(archive.keys())
        return archive.latent_scale().dequantize(latents) if kind == "floats" else latents


def told(batches: Iterator[Batch] | LatentLoader | DataLoader[Any]) -> list[list[int]]:
    return [batch.positions.tolist() for batch in batches]


# What comes


@pytest.mark.parametrize("options", [{}, {"preload": True}, {"cache_bytes": 0}, {"cache_bytes": 40_000}])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_values_are_those_of_the_reader(archives: dict[str, str], model: str, kind: Any, options: dict[str, Any]) -> None:
    wanted = expected(archives[model], kind)
    data = LatentDataset(archives[model], kind, **options)
    numbers = [7, 3, 3, 39, 0, -1]
    batch = data.__getitems__(numbers)
    np.testing.assert_array_equal(batch.values.numpy(), wanted[numbers])
    assert batch.values.numpy().dtype == wanted.dtype
    assert batch.positions.tolist() == [7, 3, 3, 39, 0, 39]
    assert len(data) == 40
    item = data[-2]
    np.testing.assert_array_equal(item.values.numpy(), wanted[-2])
    assert (item.label, item.position) == (int(data.labels[38]), 38)
    for loaded in DataLoader(data, batch_size=16, collate_fn=collate):
        np.testing.assert_array_equal(loaded.values.numpy(), wanted[loaded.positions.numpy()])
        loaded.values.add_(1)  # a batch is its own: neither read-only nor shared
    np.testing.assert_array_equal(data.__getitems__(numbers).values.numpy(), wanted[numbers])


@pytest.mark.parametrize("options", [{}, {"preload": True}, {"cache_bytes": 0}])
@pytest.mark.parametrize("kind", ["latents", "floats"])
@pytest.mark.parametrize("model", MODELS)
def test_first_channels_only(archives: dict[str, str], model: str, kind: Any, options: dict[str, Any]) -> None:
    wanted = expected(archives[model], kind)[:, :5]
    data = LatentDataset(archives[model], kind, channels=5, **options)
    for numbers in ([7, 3, 39], [3, 8]):
        np.testing.assert_array_equal(data.__getitems__(numbers).values.numpy(), wanted[numbers])


def test_channels_that_are_not_there_are_refused(archives: dict[str, str]) -> None:
    for kind, channels in (("latents", 9), ("latents", 0), ("pixels", 3)):
        with pytest.raises(InputError, match=rf"channels {channels}: of latents, these have 8; of pixels, all"):
            LatentDataset(archives["seed-8x8x8"], kind, channels=channels)


def test_floats_are_in_the_models_scale(archives: dict[str, str]) -> None:
    """As docs/FORMAT.md tells it, from the model's file."""
    from safetensors.numpy import load_file

    model = load_file(f"{archives['seed-8x8x8']}/model.safetensors")
    scale, offset = (model[f"quantizer.{name}"].reshape(-1, 1, 1) for name in ("scale", "offset"))
    values = LatentDataset(archives["seed-8x8x8"], "floats")[5].values.numpy()
    np.testing.assert_array_equal(values, offset + scale * LatentDataset(archives["seed-8x8x8"])[5].values.numpy())
    values = LatentDataset(archives["tsae"], "floats")[5].values.numpy()
    np.testing.assert_array_equal(values, LatentDataset(archives["tsae"])[5].values.numpy() / 4)


def test_labels_are_numbered_by_name(archives: dict[str, str]) -> None:
    data = LatentDataset(archives["tsae"])
    with tsae.open_archive(archives["tsae"]) as archive:
        names = [row["label"] for row in archive.rows()]
    assert data.classes == sorted(set(names))
    assert [data.classes[label] for label in data.labels] == names
    fewer = LatentDataset(archives["tsae"], which=tsae.Selection(labels=(names[0],)), classes=data.classes)
    assert set(fewer.labels.tolist()) == {data.classes.index(names[0])}
    with pytest.raises(InputError, match="none of the 1 classes"):
        LatentDataset(archives["tsae"], classes=names[:1])


def test_numbers_as_labels_are_sorted_by_value_and_none_is_minus_one(signs_dir: Path, tmp_path: Path) -> None:
    images = sorted(signs_dir.rglob("*.png"))[:4]
    (tmp_path / "in").mkdir()
    for number, image in enumerate(images):
        shutil.copy(image, tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "labels.csv").write_text("path,label\n0.png,10\n1.png,9\n3.png,10\n")
    assert main(["compress", str(tmp_path / "in"), str(tmp_path / "out"), "--model=seed-8x8x8"]) == 0
    data = LatentDataset(str(tmp_path / "out"))
    assert (data.classes, data.labels.tolist()) == (["9", "10"], [1, 0, -1, 1])


def test_a_selection_gives_its_order(archives: dict[str, str]) -> None:
    selection = tsae.Selection(sort="psnr", reverse=True, limit=9)
    with tsae.open_archive(archives["tsae"]) as archive:
        wanted = archive.positions(selection)
    data = LatentDataset(archives["tsae"], which=selection)
    assert told(LatentLoader(data, 4, shuffle=False)) == [wanted[:4].tolist(), wanted[4:8].tolist(), wanted[8:].tolist()]
    empty = LatentDataset(archives["tsae"], which="none*", preload=True)
    assert (len(empty), told(LatentLoader(empty)), told(iter(LatentStream(empty)))) == (0, [], [])


@pytest.mark.parametrize("index", [40, -41, 10**9])
def test_a_number_that_is_not_there_is_an_index_error(archives: dict[str, str], index: int) -> None:
    with pytest.raises(IndexError):
        LatentDataset(archives["tsae"])[index]


def test_an_unknown_kind_is_refused(archives: dict[str, str]) -> None:
    with pytest.raises(InputError, match="kind 'sounds'"):
        LatentDataset(archives["tsae"], "sounds")  # type: ignore[arg-type]


def test_subsets_and_single_images_collate_as_well(archives: dict[str, str]) -> None:
    data = LatentDataset(archives["tsae"])
    assert told(DataLoader(Subset(data, [5, 3, 9]), batch_size=2, collate_fn=collate)) == [[5, 3], [9]]
    batch = collate([data[4], data[2]])
    assert torch.equal(batch.values, data.__getitems__([4, 2]).values)
    assert torch.equal(batch.labels, data.__getitems__([4, 2]).labels)


# What is read


def test_a_row_group_is_read_once_in_an_epoch(archives: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = LatentDataset(archives["seed-8x8x8"], kept_groups=8)
    groups = int(data.groups.max()) + 1
    assert groups > 12
    read: list[tuple[str, int]] = []
    original = Shard.streams
    monkeypatch.setattr(Shard, "streams", lambda self, group: (read.append((self.source, group)), original(self, group))[1])
    monkeypatch.setattr(Shard, "read", None)
    told(LatentLoader(data, 5, window=4))
    assert len(read) == len(set(read)) == groups
    told(iter(LatentStream(data, 7)))
    assert len(read) <= 2 * groups


def test_damage_is_told_by_key_and_costs_no_other_image(archives: dict[str, str], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(archives["tsae"], tmp_path / "copy"))
    with tsae.open_archive(archives["tsae"]) as archive:
        key = list(archive)[7]
        stream = archive.record(key).streams[0]
    (shard,) = (copy / "shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[content.find(stream) + 1] ^= 1
    shard.write_bytes(content)
    data = LatentDataset(str(copy))
    others = [number for number in range(40) if number != 7]
    assert torch.equal(data.__getitems__(others).values, LatentDataset(archives["tsae"]).__getitems__(others).values)
    for workers in (0, 1, 0):  # again and again: it is never kept
        with pytest.raises(CorruptDataError, match=key):
            told(LatentLoader(data, 8, num_workers=workers))


def test_row_groups_know_their_positions(archives: dict[str, str]) -> None:
    archive = tsae.open_archive(archives["tsae"])
    groups: RowGroups = pickle.loads(pickle.dumps(archive.row_groups(2)))  # noqa: S301 - our own
    assert (groups.starts[0], groups.starts[-1]) == (0, 40)
    assert groups.of(np.array([0, 39, int(groups.starts[1])])).tolist() == [0, len(groups.starts) - 2, 1]
    assert groups.records(np.array([31, 2])).streams == archive.records([31, 2]).streams
    for wrong in ([40], [-1], [0, 99]):
        with pytest.raises(IndexError):
            groups.records(np.array(wrong))


# What is kept


@pytest.mark.parametrize(("kind", "workers", "method"), [("latents", 0, None), ("floats", 2, "fork"), ("pixels", 1, "spawn")])
def test_what_one_process_decoded_all_have(archives: dict[str, str], kind: Any, workers: int, method: str | None) -> None:
    data = LatentDataset(archives["tsae"], kind)
    for batch in LatentLoader(data, 6, num_workers=workers, multiprocessing_context=method):
        batch.values.add_(1)  # of the batch alone
    wanted = expected(archives["tsae"], kind)
    data._decode = None  # type: ignore[method-assign,assignment]
    assert torch.equal(data.__getitems__(range(40)).values, torch.from_numpy(wanted))


@pytest.mark.parametrize(("cache_bytes", "decoded"), [(0, 40), (4095, 40), (4096, 39), (25 * 4096, 15), (2**40, 0)])
def test_beyond_the_cache_images_are_decoded_each_time(archives: dict[str, str], cache_bytes: int, decoded: int) -> None:
    data = LatentDataset(archives["tsae"], cache_bytes=cache_bytes)
    data.__getitems__(range(40))
    asked: list[int] = []
    original = data._decode
    data._decode = lambda positions: (asked.extend(positions.tolist()), original(positions))[1]  # type: ignore[method-assign]
    assert torch.equal(
        data.__getitems__(range(39, -1, -1)).values, torch.from_numpy(expected(archives["tsae"], "latents")[::-1].copy())
    )
    assert len(asked) == decoded


def test_the_cache_leaves_half_of_what_can_be_shared(archives: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_free_bytes", lambda: 20 * 4096)
    data = LatentDataset(archives["tsae"])
    data.__getitems__(range(40))
    assert data._cache.has(np.arange(40)).sum() == 10
    with pytest.raises(InputError, match="40 images take 0 MB.*leave preload out"):
        LatentDataset(archives["tsae"], preload=True)


def test_a_pickle_has_no_decoded_images(archives: dict[str, str]) -> None:
    data = LatentDataset(archives["tsae"], "pixels", preload=True)
    pickled = pickle.dumps(data)
    assert len(pickled) < 20_000 < 40 * 3072
    other = pickle.loads(pickled)  # noqa: S301 - our own
    assert torch.equal(other.__getitems__(range(40)).values, data.__getitems__(range(40)).values)


def test_values_of_another_form_are_not_kept() -> None:
    """As of a foreign archive whose manifest does not say what its records are."""
    kept = cache.SharedCache(4, (2, 2), torch.int8, None)
    kept.put(np.array([0]), torch.full((1, 2, 2), 300, dtype=torch.int16))
    kept.put(np.array([1]), torch.zeros((1, 4), dtype=torch.int8))
    kept.put(np.array([3]), torch.ones((1, 2, 2), dtype=torch.int8))
    assert kept.has(np.arange(4)).tolist() == [False, False, False, True]


# In which order, with any workers


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(archives: dict[str, str], workers: int, method: str) -> None:
    """Two epochs by persistent workers, pixels of a network that this process has used already."""
    data = LatentDataset(archives["tsae"], "pixels")
    data[0]
    alone = LatentLoader(data, 7, seed=5, window=3)
    several = LatentLoader(
        data, 7, seed=5, window=3, num_workers=workers, multiprocessing_context=method, persistent_workers=True
    )
    wanted = expected(archives["tsae"], "pixels")
    for epoch in range(2):
        assert several.order.epoch == epoch
        one, two = list(alone), list(several)
        assert told(iter(one)) == told(iter(two))
        for batch in two:
            np.testing.assert_array_equal(batch.values.numpy(), wanted[batch.positions.numpy()])
            assert torch.equal(batch.labels, torch.from_numpy(data.labels[batch.positions.numpy()]))


def test_a_preloaded_set_is_shared_with_spawned_workers(archives: dict[str, str]) -> None:
    data = LatentDataset(archives["seed-8x8x8"], preload=True)
    wanted = expected(archives["seed-8x8x8"], "latents")
    for batch in LatentLoader(data, 16, num_workers=1, multiprocessing_context="spawn"):
        np.testing.assert_array_equal(batch.values.numpy(), wanted[batch.positions.numpy()])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_plain_loader_may_be_given_the_order(archives: dict[str, str], workers: int) -> None:
    data = LatentDataset(archives["seed-8x8x8"])
    reference = LatentLoader(data, 6, seed=9)
    loader = DataLoader(data, batch_sampler=reference.order, collate_fn=collate, num_workers=workers)
    first = told(loader)
    assert first == told(loader) == told(reference)
    reference.set_epoch(1)
    assert told(loader) != first


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_comes_in_order(archives: dict[str, str], workers: int) -> None:
    data = LatentDataset(archives["seed-8x8x8"])
    wanted = [list(range(at, min(at + 7, 40))) for at in range(0, 40, 7)]
    loader = DataLoader(LatentStream(data, 7), batch_size=None, num_workers=workers)
    assert told(loader) == wanted
    assert len(loader) == 6
    parts = [told(iter(LatentStream(data, 7, rank=rank, world_size=2, start=14))) for rank in range(2)]
    assert parts == [[wanted[2], list(range(28, 34))], [wanted[3], list(range(34, 40))]]
    assert told(iter(LatentStream(data, 7, start=99))) == []


# After a stop


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stopped_epoch_goes_on_exactly(archives: dict[str, str], workers: int) -> None:
    """The state is that of what was handed out, however far workers have read ahead; other workers may take it up."""
    data = LatentDataset(archives["seed-8x8x8"])
    whole = LatentLoader(data, 3, seed=2)
    whole.set_epoch(4)
    wanted, following = told(whole), told(whole)
    loader = LatentLoader(data, 3, seed=2, num_workers=workers)
    loader.set_epoch(4)
    had = []
    for batch in loader:
        had.append(batch.positions.tolist())
        if len(had) == 5:
            break
    state = json.loads(json.dumps(loader.state_dict()))
    facts = {"fingerprint": data.fingerprint, "count": 40, "shuffle": True, "window": 64}
    assert state == {"seed": 2, "epoch": 4, "images": 15, **facts}
    again = LatentLoader(data, 3, num_workers=2 - workers)
    again.load_state_dict(state)
    assert len(again) == len(wanted) - 5
    assert again.state_dict() == state
    assert had + told(again) == wanted
    assert told(again) == following
    assert told(loader) == wanted  # who left early begins again


def test_persistent_workers_take_up_a_state(archives: dict[str, str]) -> None:
    data = LatentDataset(archives["seed-8x8x8"])
    loader = LatentLoader(data, 4, seed=1, num_workers=2, persistent_workers=True)
    wanted = told(loader)
    state = {**loader.state_dict(), "epoch": 0, "images": 12}
    loader.load_state_dict(state)
    assert told(loader) == wanted[3:]


def test_the_state_in_the_last_batch_is_of_a_finished_epoch(archives: dict[str, str]) -> None:
    loader = LatentLoader(LatentDataset(archives["seed-8x8x8"]), 16)
    states = [loader.state_dict() for _ in loader]
    assert [state["images"] for state in states] == [16, 32, 40]
    loader.load_state_dict(states[-1])
    assert told(loader) == []
    assert loader.state_dict()["epoch"] == 1


def test_a_state_of_other_images_is_refused(archives: dict[str, str]) -> None:
    state = LatentLoader(LatentDataset(archives["tsae"])).state_dict()
    others = (
        LatentDataset(archives["seed-8x8x8"]),
        LatentDataset(archives["tsae"], which=tsae.Selection(sort="psnr")),
        LatentDataset(archives["tsae"], which="s*"),
    )
    for other in others:
        with pytest.raises(ValueError, match="another"):
            LatentLoader(other).load_state_dict(state)
    LatentLoader(LatentDataset(archives["tsae"], "pixels")).load_state_dict(state)
