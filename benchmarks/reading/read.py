"""What a classifier reads of coded images, and what that says of two coders on the same images."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from reading.coded import Coded, Data
from tsae.archive import EXACT_PSNR_DB
from tsae.classifier import SignClassifier
from tsae.evaluation.facts import Facts, Readings
from tsae.evaluation.figures import describe_images
from tsae.evaluation.statistics import mcnemar_p, paired_interval
from tsae.metrics import laplacian_variance, mean_luma, psnr_db, ssim

CHUNK_IMAGES = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Originals:
    """Originals, and what is read of them: what all coders have in common.

    Attributes:
        data: The images.
        read: Classes, int64 `[N]`.
        sure: Probabilities of these, float64 `[N]`.
    """

    data: Data
    read: np.ndarray
    sure: np.ndarray


def read_images(classifier: SignClassifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and probability of each image."""
    parts = [classifier.probabilities(images[start : start + CHUNK_IMAGES]) for start in range(0, len(images), CHUNK_IMAGES)]
    found = np.concatenate(parts)
    return found.argmax(1).astype(np.int64), found.max(1).astype(np.float64)


def readings(originals: Originals, coded: Coded, classifier: SignClassifier) -> Readings:
    """All that is known of coded images."""
    data, (read_decoded, sure_decoded) = originals.data, read_images(classifier, coded.decoded)
    psnrs_db = np.minimum(psnr_db(data.images, coded.decoded), EXACT_PSNR_DB)
    facts = Facts(
        keys=data.keys,
        labels=data.labels,
        sizes_px=data.sizes_px,
        sizes_bytes=coded.sizes_bytes,
        is_exact=psnrs_db >= EXACT_PSNR_DB,
        psnrs_db=psnrs_db,
        ssims=ssim(data.images, coded.decoded),
        lumas=mean_luma(data.images),
        sharpness=laplacian_variance(data.images),
        read_original=originals.read,
        read_decoded=read_decoded,
        sure_original=originals.sure,
        sure_decoded=sure_decoded,
    )
    return Readings(facts, classifier.classes)


def describe(coded: Coded, found: Readings) -> dict[str, Any]:
    """Figures of a coder at one setting; of our models also by label, and the keys of lost images."""
    figures = describe_images(found)
    row = {
        "coder": coded.coder,
        "setting": coded.setting,
        "bytes_per_image": coded.bytes_per_image,
        **coded.facts,
        **{name: figures[name] for name in ("images", "psnr_db", "ssim", "agreement", "accuracy", "darkness", "blur", "size")},
        "lost": len(figures["lost"]),
        "gained": len(figures["gained"]),
    }
    if coded.is_ours:
        row["labels"] = figures["labels"]
        row["confusions"] = [[pair["from"], pair["to"], pair["images"]] for pair in figures["confusions"]]
        row["lost_keys"] = [image["key"] for image in figures["lost"]]
    return row


def compare(ours: Readings, theirs: Readings) -> dict[str, Any]:
    """Accuracy of two coders on the same images: McNemar's exact test, and 95 % of the bootstrap's differences in points."""
    known = ours.is_labelled
    only_ours = int((ours.right_decoded & ~theirs.right_decoded)[known].sum())
    only_theirs = int((theirs.right_decoded & ~ours.right_decoded)[known].sum())
    low, high = paired_interval(only_ours, only_theirs, int(known.sum()))
    return {
        "only_ours": only_ours,
        "only_theirs": only_theirs,
        "gain_points": 100 * (only_ours - only_theirs) / int(known.sum()),
        "interval_95_points": [100 * low, 100 * high],
        "mcnemar_p": mcnemar_p(only_ours, only_theirs),
    }
