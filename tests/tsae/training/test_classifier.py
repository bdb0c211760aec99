"""Training classifiers, on a few drawn signs and tiny networks: seeded, resumable, and as good as what is written."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tsae.classifier import SignClassifier, classifier_from_bytes, load_classifier
from tsae.cli import main
from tsae.errors import InputError
from tsae.images import resize
from tsae.reader import open_archive
from tsae.signs.faces import paint_face
from tsae.training import default_classifier_config, train_classifier
from tsae.training.classifier import ClassifierRecipe
from tsae.training.images import split_images
from tsae.training.labelled import LabelledSet, load_labelled
from tsae.training.sign_network import SignNetwork
from tsae.training.teacher import Teacher

training = importlib.import_module("tsae.training.classifier")
networks = importlib.import_module("tsae.training.sign_network")
running = importlib.import_module("tsae.training.run")

TINY = {
    "pixels": ((8, "blur-pool"), (8, "blur-pool"), (8, "blur-pool")),
    "latents": ((48, "spread"), (8, "pool"), (8, "rectify"), (8, "pool")),
    "entropy-coded latents": ((48, "spread"), (8, "pool"), (4, "pool")),
}

KINDS = ("pixels", "latents")


@pytest.fixture(scope="module", autouse=True)
def tiny() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "STAGES", TINY)
        patch.setattr(training, "WARM_STEPS", 4)
        yield


@pytest.fixture(scope="module")
def archive(signs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "a"
    assert main(["compress", str(signs), str(path), "--model", "seed-8x8x8"]) == 0
    return path


def config(kind: str, **changes: Any) -> training.TrainConfig:
    return dataclasses.replace(default_classifier_config(kind), epochs=2, batch_size=16, seed=4, **changes)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def data(kind: str, signs: Path, archive: Path) -> Path:
    return signs if kind == "pixels" else archive


@pytest.fixture(scope="module")
def trained(kind: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "whole.safetensors"
    train_classifier(data, out, config(kind), kind)
    return out


def test_the_seed_decides_the_weights(kind: str, data: Path, trained: Path, tmp_path: Path) -> None:
    train_classifier(data, tmp_path / "again.safetensors", config(kind), kind)
    train_classifier(data, tmp_path / "other.safetensors", dataclasses.replace(config(kind), seed=5), kind)
    assert (tmp_path / "again.safetensors").read_bytes() == trained.read_bytes()
    assert (tmp_path / "other.safetensors").read_bytes() != trained.read_bytes()


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def test_a_killed_run_goes_on_to_the_same_weights(
    kind: str, data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, original, calls = tmp_path / "killed.safetensors", running._run_epoch, []

    def killed(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(running, "_run_epoch", killed)
        with pytest.raises(Killed):
            train_classifier(data, out, config(kind), kind)
    train_classifier(data, out, config(kind), kind, resume=True)
    assert out.read_bytes() == trained.read_bytes()


def test_what_is_written_is_as_good_as_what_was_trained(kind: str, data: Path, trained: Path) -> None:
    """The file's folded, rounded layers give the average network's accuracy on the validation images."""
    classifier = load_classifier(str(trained))
    _, valid = split_images(load_labelled(data, kind), data)
    right = classifier.probabilities(valid.images).argmax(1) == valid.labels
    assert right.mean() == pytest.approx(classifier.training["valid_accuracy"], abs=1.5 / len(valid))
    assert (classifier.input, classifier.classes) == (kind, valid.classes)
    assert classifier.training["epochs"] == 2


def test_latents_are_bound_to_their_model(kind: str, data: Path, trained: Path) -> None:
    expected = open_archive(str(data)).manifest.model_sha256 if kind == "latents" else None
    assert load_classifier(str(trained)).latents_of == expected


def random_network(kind: str) -> tuple[SignNetwork, torch.Tensor]:
    """One whose normalisations do something, and what it may look at."""
    torch.manual_seed(0)
    channels = 3 if kind == "pixels" else 5
    network = SignNetwork(kind, TINY[kind], torch.full((channels,), 0.02), torch.full((channels,), -1.0), 4)
    for norm in (layer for layer in network.norms if isinstance(layer, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean, 0.3, 0.5)
        torch.nn.init.uniform_(norm.running_var, 0.1, 3.0)
        torch.nn.init.uniform_(norm.weight, -1.5, 1.5)
    return network, torch.randint(0, 100, (6, channels, network.side, network.side))


def test_the_folded_network_is_the_network(kind: str) -> None:
    network, x = random_network(kind)
    weights = training.ClassifierWeights("it", kind, tuple("abcd"), network.layers(), None)
    values = x.permute(0, 2, 3, 1).numpy().astype(np.uint8) if kind == "pixels" else x.numpy().astype(np.int16)
    with torch.inference_mode():
        expected = torch.softmax(network.eval()(x), 1).numpy()
    np.testing.assert_allclose(SignClassifier(weights, "").probabilities(values), expected, atol=1e-5)
    reread = SignClassifier(classifier_from_bytes(weights.to_bytes(), "it"), "")
    np.testing.assert_allclose(reread.probabilities(values), expected, atol=5e-3)


def test_a_later_stage_starts_as_what_it_starts_from(kind: str, data: Path, trained: Path) -> None:
    learned, _ = split_images(load_labelled(data, kind), data)
    recipe = ClassifierRecipe(kind, config(kind, start=str(trained)), learned)
    x = torch.from_numpy(learned.images)
    x = x.permute(0, 3, 1, 2) if kind == "pixels" else x
    with torch.inference_mode():
        found = torch.softmax(recipe.network.eval()(x), 1).numpy()
    np.testing.assert_allclose(found, load_classifier(str(trained)).probabilities(learned.images), atol=1e-4)


def test_a_later_stage_of_an_older_network_pools_as_new_ones_do(kind: str, data: Path, trained: Path, tmp_path: Path) -> None:
    weights = classifier_from_bytes(trained.read_bytes(), "it")
    older = tuple("pool" if then == "blur-pool" else then for then in weights.layers.then)
    (tmp_path / "older.safetensors").write_bytes(
        dataclasses.replace(weights, layers=weights.layers._replace(then=older)).to_bytes()
    )
    learned, _ = split_images(load_labelled(data, kind), data)
    network = networks.network_of(str(tmp_path / "older.safetensors"), kind, learned)
    assert network.then == tuple(then for _, then in TINY[kind])
    for mine, theirs in zip(network.layers().convolutions, weights.layers.convolutions, strict=True):
        np.testing.assert_allclose(mine.weight, theirs.weight, atol=1e-4)


def test_restored_normalisations_have_the_statistics_of_the_sample(kind: str) -> None:
    """So the first step of training, which normalises by those of its batch, sees what inference sees."""
    network, values = random_network(kind)
    restored = SignNetwork(kind, TINY[kind], network.scale, network.offset, 4)
    restored.restore(network.layers(), values)
    restored.last.load_state_dict(network.last.state_dict())
    restored.dropped = (0.0, 0.0)
    with torch.inference_mode():
        expected = network.eval()(values)
        torch.testing.assert_close(restored.eval()(values), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(restored.train()(values), expected, atol=1e-4, rtol=1e-4)


def test_the_command_goes_on_from_a_classifier(kind: str, data: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    flags = ["--input", kind, "--start", str(trained), "--epochs", "1", "--batch-size", "16", "--device", "cpu"]
    assert main(["train-classifier", str(data), *flags, "--learning-rate", "1e-9", "--out", str(out)]) == 0
    first, later = load_classifier(str(trained)), load_classifier(str(out))
    assert (later.training["start"], later.latents_of) == (str(trained), first.latents_of)
    images = load_labelled(data, kind).images
    np.testing.assert_allclose(later.probabilities(images), first.probabilities(images), atol=0.1)


def test_a_later_stage_may_learn_other_classes(kind: str, data: Path, trained: Path) -> None:
    """All layers but the last are kept."""
    learned = load_labelled(data, kind)
    two = learned.take(learned.labels < 2)
    recipe = ClassifierRecipe(kind, config(kind, start=str(trained)), dataclasses.replace(two, classes=two.classes[:2]))
    kept = classifier_from_bytes(trained.read_bytes(), "").layers.convolutions
    assert recipe.network.last.weight.shape[0] == 2
    for convolution, layer in zip(recipe.network.convolutions, kept, strict=False):
        np.testing.assert_array_equal(convolution.weight.detach().numpy(), layer.weight)


def test_a_later_stage_of_other_input_is_refused(archive: Path, signs: Path, tmp_path: Path) -> None:
    assert main(["compress", str(signs), str(tmp_path / "a"), "--quality", "3"]) == 0
    for kind, data, start, message in (
        ("latents", archive, "signs-43", "start signs-43: looks at pixels; give --input pixels, or name one of latents"),
        ("pixels", archive, "signs-43-seed", "start signs-43-seed: looks at latents; give --input latents"),
        (
            "latents",
            tmp_path / "a",
            "signs-43-seed",
            "start signs-43-seed: looks at 8 channels of latents, not 16 as here; name one of such",
        ),
    ):
        with pytest.raises(InputError) as caught:
            train_classifier(data, tmp_path / "m.safetensors", config(kind, start=start), kind)
        assert str(caught.value).startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def faces(label: str, count: int) -> list[np.ndarray]:
    """One sign, weathered in different ways, on grey."""
    random = np.random.default_rng(len(label))
    found = [
        Image.alpha_composite(Image.new("RGBA", (96, 96), "grey"), paint_face(random, label).resize((96, 96)))
        for _ in range(count)
    ]
    return [resize(face.convert("RGB")) for face in found]


def test_signs_can_be_learned() -> None:
    """Three signs, jittered anew each time: those never trained on are told apart."""
    classes, count = ("stop", "roundabout", "no-overtaking"), 30
    images = np.stack([image for label in classes for image in faces(label, count)])
    labels = np.repeat(np.arange(len(classes)), count)
    few = LabelledSet([f"{number}.png" for number in range(len(images))], images, labels, classes)
    training_set, valid = split_images(few, "nowhere")
    torch.manual_seed(0)
    recipe = ClassifierRecipe("pixels", config("pixels"), training_set)
    random = np.random.default_rng(0)
    for number in range(40):
        rows = random.integers(0, len(training_set), 32)
        batch = [torch.from_numpy(values[rows]) for values in training_set.examples]
        recipe.step(*batch, number=number, steps=40)
    assert recipe.evaluate(valid)["accuracy"] > 0.9


@pytest.mark.parametrize("steps", [1, 9, 5000])
def test_a_short_run_comes_to_the_learning_rate_as_well(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few hundred images, all epochs may have fewer steps than those over which a long run rises."""
    monkeypatch.setattr(training, "WARM_STEPS", 300)
    images = np.zeros((4, 32, 32, 3), np.uint8)
    recipe = ClassifierRecipe("pixels", config("pixels"), LabelledSet(list("abcd"), images, np.arange(4) % 2, ("x", "y")))
    rates = [recipe._rate(number, steps) for number in range(steps)]
    assert 0.9 < max(rates) / recipe.config.learning_rate <= 1


def test_the_command_trains_on_an_archive(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my-signs.safetensors"
    flags = ["--input", "latents", "--epochs", "1", "--batch-size", "16", "--device", "cpu", "--out", str(out)]
    assert main(["train-classifier", str(archive), *flags]) == 0
    assert "validation images are classified rightly" in capsys.readouterr().out
    assert load_classifier(str(out)).training["epochs"] == 1
    assert load_classifier(str(out)).name == "my-signs"


def test_entropy_coded_latents_have_a_network_of_their_own(signs: Path, tmp_path: Path) -> None:
    """It looks at the first 16 channels of 32, which need not be cut for it."""
    assert main(["compress", str(signs), str(tmp_path / "a"), "--quality", "3"]) == 0
    train_classifier(tmp_path / "a", tmp_path / "m.safetensors", config("latents"), "latents")
    classifier = load_classifier(str(tmp_path / "m.safetensors"))
    assert classifier.channels == 16
    assert classifier.multiply_adds == 8**2 * 16 * 9 * 48 + 32**2 * 3 * 9 * 8 + 16**2 * 8 * 9 * 4 + 8**2 * 4 * len(
        classifier.classes
    )
    with open_archive(str(tmp_path / "a")) as archive:
        keys = list(archive.keys())
        found = classifier.probabilities(archive.latents(keys, 16))
        np.testing.assert_array_equal(found, classifier.probabilities(archive.latents(keys)))


def test_latents_of_several_archives(signs: Path, tmp_path: Path) -> None:
    """The first layer starts from images of the first one, whatever their order."""
    for quality in (3, 6):
        assert main(["compress", str(signs), str(tmp_path / f"a{quality}"), "--quality", str(quality)]) == 0
    out = tmp_path / "m.safetensors"
    flags = ["--input", "latents", "--epochs", "1", "--batch-size", "16", "--device", "cpu", "--out", str(out)]
    assert main(["train-classifier", str(tmp_path / "a3"), str(tmp_path / "a6"), *flags]) == 0
    facts = load_classifier(str(out)).training
    assert facts["train_images"] + facts["valid_images"] == 120


def test_the_first_of_several_archives_may_have_validation_images_only(signs: Path, tmp_path: Path) -> None:
    images = sorted(signs.rglob("*.png"))
    for name, tracks in (("a", (0,)), ("b", (1, 2, 3, 4))):
        for number, image in enumerate(images[:40]):
            path = tmp_path / f"in-{name}/{number % 2:05d}/{tracks[number % len(tracks)]:05d}_{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.read_bytes())
        assert main(["compress", str(tmp_path / f"in-{name}"), str(tmp_path / name), "--model", "seed-8x8x8"]) == 0
    (tmp_path / "valid_tracks.json").write_text("[0, 1000]")
    found = train_classifier([tmp_path / "a", tmp_path / "b"], tmp_path / "m.safetensors", config("latents"), "latents")
    assert (found.training["train_images"], found.training["valid_images"]) == (40, 40)


def test_latents_of_files_are_refused_before_anything_is_written(signs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no archive"):
        train_classifier(signs, tmp_path / "m.safetensors", config("latents"), "latents")
    assert not list(tmp_path.iterdir())


# A teacher


@pytest.fixture(scope="module")
def teacher(signs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of pixels, trained on the same signs."""
    out = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    train_classifier(signs, out, config("pixels"), "pixels")
    return str(out)


def test_a_teacher_changes_what_is_learned(kind: str, data: Path, trained: Path, teacher: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_classifier(data, tmp_path / f"{name}.safetensors", config(kind, teacher=teacher), kind)
    taught, again = (tmp_path / f"{name}.safetensors" for name in ("a", "b"))
    assert taught.read_bytes() == again.read_bytes()
    assert load_classifier(str(taught)).training["teacher"] == teacher
    old, new = (classifier_from_bytes(path.read_bytes(), "it").layers.convolutions[-1].weight for path in (trained, taught))
    assert np.abs(old - new).max() > 1e-3


def test_the_teacher_of_latents_reads_the_images_that_they_stand_for(archive: Path, teacher: str) -> None:
    """Of each archive, in the order of the latents."""
    found = load_labelled([archive, archive], "latents", Teacher(teacher, "cpu"))
    assert found.readings is not None
    with open_archive(str(archive)) as opened:
        expected = load_classifier(teacher).probabilities(opened.decode(found.keys))
    np.testing.assert_allclose(torch.from_numpy(found.readings).float().softmax(1).numpy(), expected, atol=2e-3)
    odd = np.arange(len(found)) % 2 == 1
    np.testing.assert_array_equal(found.take(odd).readings, found.readings[odd])


def test_what_the_teacher_does_not_say_the_labels_do(
    kind: str, data: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all of the loss for the teacher, labels change nothing, and nor does the order in which it knows the classes."""

    def loss(share: float, turned: int, said_by: Teacher) -> float:
        monkeypatch.setattr(training, "SHARE", share)
        learned = load_labelled(data, kind, said_by)
        torch.manual_seed(1)
        recipe = ClassifierRecipe(kind, config(kind), learned, said_by)
        values, labels, *readings = (torch.from_numpy(part[:16]) for part in learned.examples)
        return recipe.step(values, (labels + turned) % len(learned.classes), *readings, number=0, steps=9).item()

    plain, reordered = Teacher(teacher, "cpu"), Teacher(teacher, "cpu")
    network = reordered._network
    reordered.classes, reordered._network = plain.classes[::-1], lambda x: network(x)[:, ::-1].copy()
    taught = loss(1.0, 0, plain)
    assert taught == loss(1.0, 1, plain) > 0
    assert taught == pytest.approx(loss(1.0, 0, reordered), rel=1e-5)
    labelled = loss(0.0, 0, plain)
    assert loss(0.5, 0, plain) == pytest.approx((taught + labelled) / 2, rel=1e-4)


def test_a_teacher_that_cannot_teach_is_refused(signs: Path, teacher: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train-classifier", str(signs), "--out", "m.safetensors", "--device", "cpu", "--teacher"]
    assert main([*command, "signs-43-seed"]) == 2
    assert "teacher signs-43-seed: looks at latents; name one of pixels, such as signs-43" in capsys.readouterr().err
    assert main([*command, "signs-43"]) == 2
    assert "teacher signs-43: does not know the label 'ahead'; leave it out, or name one that does" in capsys.readouterr().err
    assert main([*command, "none.safetensors"]) == 2
    assert "none.safetensors" in capsys.readouterr().err


def test_a_label_that_the_teacher_does_not_know_is_found_before_it_reads(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Teacher, "read", None)
    with pytest.raises(InputError, match="teacher signs-43: does not know the label 'ahead'"):
        load_labelled(archive, "latents", Teacher("signs-43", "cpu"))
