"""What storing latents as 8-bit integers costs in quality: a seed model with float latents against its codec, side by side.

    python benchmarks/quantization.py DATA [--model NAME|FILE]

DATA is what `tsae train` takes; the model is one of the architecture seed-8x8x8. Prints one JSON object: mean binary
cross-entropy (nats per component, float latents), and the mean, first percentile and minimum of PSNR (dB) for float and for
stored latents.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import torch
from numpy.typing import NDArray

from tsae.checkpoint import SeedWeights, model_from_bytes
from tsae.codec import Codec
from tsae.metrics import psnr_db
from tsae.training.images import load_images
from tsae.training.seed import evaluate
from tsae.zoo import read_model_file


def summarize(psnrs: NDArray[np.float64]) -> dict[str, float]:
    """Mean, first percentile and minimum."""
    return {"mean": float(psnrs.mean()), "p1": float(np.percentile(psnrs, 1)), "min": float(psnrs.min())}


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="seed-8x8x8")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = load_images(args.data).images
    model_file = read_model_file(args.model)
    weights = model_from_bytes(model_file, args.model).weights
    if not isinstance(weights, SeedWeights):
        sys.exit(f"{args.model}: its latents are never floats; name a model of the architecture {SeedWeights.architecture}")
    network = weights.to_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    codec = Codec.from_bytes(model_file, args.model)
    records = codec.encode(images)
    bce, float_psnrs = evaluate(network, images, "cpu")
    float_db = summarize(float_psnrs)
    stored_db = summarize(psnr_db(images, codec.decode(records)))
    result = {
        "images": len(images),
        "bce": bce,
        "float_psnr_db": float_db,
        "stored_psnr_db": stored_db,
        "stored_bytes": sum(map(len, records.streams)) / len(images),
        "cost_db": float_db["mean"] - stored_db["mean"],
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
