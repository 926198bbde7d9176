"""What reading training images costs by each route, and what keeping them shrunk loses: one core, CPU time.

python -m benchmarks.images FOLDER_OF_IMAGES [--image-px 224] [--count 60] [--rounds 5]
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.data import SOURCES, Labels, Source, cache
from jtl.data.subset import Subset
from jtl.inputs import image, quick, stored
from jtl.inputs.image import Augment
from jtl.inputs.preprocess import Preprocess

ROOM = 1 << 34


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--image-px", type=int, default=224)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    kind = SOURCES["image_folder"]
    settings = kind.Config(name="image_folder", path=args.folder, val_fraction=0.0)
    whole = kind.open(settings, Labels())["train"]
    source = Subset(whole, np.linspace(0, len(whole) - 1, args.count).astype(np.int64))
    preprocess, augment = Preprocess((args.image_px, args.image_px), args.image_px), Augment()
    with tempfile.TemporaryDirectory() as folder:
        kept = _kept(source, stored.storage(preprocess, augment), folder)
        found = {
            "images_per_second": _speeds(source, kept, preprocess, augment, args.rounds),
            "loss": _loss(source, folder, preprocess, augment),
        }
    versions = {name: metadata.version(name) for name in ("jax", "numpy", "pillow")}
    about = {"images": args.count, "image_px": args.image_px, "rounds": args.rounds, "versions": versions}
    about["opencv"] = quick.required().__version__
    sys.stdout.write(json.dumps({**about, "processor": platform.machine(), **found}, indent=2) + "\n")


def _kept(source: Source, storage: Any, folder: str) -> cache.Cached:
    os.environ["JTL_CACHE"] = folder
    found = cache.cached(source, storage, ROOM, unit="images", say=lambda line: None)
    assert found is not None
    return found


def _speeds(
    source: Source, kept: cache.Cached, preprocess: Preprocess, augment: Augment, rounds: int
) -> dict[str, dict[str, float]]:
    raws = [source[row]["raw"] for row in range(len(source))]
    pixels = [kept[row]["raw"] for row in range(len(kept))]
    transforms = {
        each: image.transform(preprocess, replace(augment, resizer=each)) for each in image.RESIZERS
    }

    def through(transform: Callable[..., Any], examples: list[Any]) -> Callable[[], None]:
        def run() -> None:
            for place, each in enumerate(examples):
                transform(each, np.random.Generator(np.random.Philox(key=np.array([1, place], np.uint64))))

        return run

    pack = stored.storage(preprocess, augment).pack
    assert pack is not None
    arrays, vary = pack(pixels)
    arrays = jax.device_put(arrays)
    rows = jnp.arange(len(pixels), dtype=jnp.int32)
    positions = jnp.stack([jnp.zeros_like(rows), rows], axis=1).astype(jnp.uint32)
    compiled = jax.jit(vary).lower(jax.random.key(0), arrays, rows, positions).compile()
    plain, least_px = transforms["pillow"], image.least_px(preprocess, augment)

    def without_opencv() -> None:
        through(plain, [image.pixels_of(each, preprocess, least_px, is_checked=True) for each in raws])()

    cases: dict[str, Callable[[], Any]] = {"stream, without OpenCV": without_opencv}
    cases |= {f"stream, {name}": through(each, raws) for name, each in transforms.items()}
    cases |= {f"cache, {name}": through(each, pixels) for name, each in transforms.items()}
    cases["device (CPU)"] = lambda: jax.block_until_ready(
        compiled(jax.random.key(0), arrays, rows, positions)
    )
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            begun = time.process_time()
            run()
            seconds[name].append(time.process_time() - begun)
    return {
        name: {
            "median": round(len(raws) / statistics.median(each), 1),
            "least": round(len(raws) / max(each), 1),
            "most": round(len(raws) / min(each), 1),
        }
        for name, each in seconds.items()
    }


def _loss(source: Source, folder: str, preprocess: Preprocess, augment: Augment) -> dict[str, Any]:
    """Compare crops of kept images with those of the files, at the size asked for, a half and a quarter."""
    found: dict[str, Any] = {}
    for part in (1, 2, 4):
        px = preprocess.image_px[0] // part
        smaller = preprocess.at((px, px))
        kept = _kept(source, stored.storage(smaller, augment), folder)
        differences = []
        for row in range(len(source)):
            raw, pixels = source[row]["raw"], kept[row]["raw"]
            theirs = image.pixels_of(raw, smaller)
            box = image.random_crop(pixels.shape[:2], (px, px), augment, np.random.default_rng(row))
            across, down = theirs.shape[1] / pixels.shape[1], theirs.shape[0] / pixels.shape[0]
            whole = tuple(side * ratio for side, ratio in zip(box, (across, down, across, down), strict=True))
            one = image.resized(image.to_channels(theirs, 3), (px, px), preprocess.interpolation, whole)
            other = image.resized(image.to_channels(pixels, 3), (px, px), preprocess.interpolation, box)
            differences.append(one.astype(np.float64) - other)
        squared = [float((each**2).mean()) for each in differences]
        mean = float(np.mean([np.abs(each).mean() for each in differences]))
        psnr = [10 * np.log10(255**2 / each) for each in squared if each]
        found[f"{px} px, short side at most {stored.stored_px(smaller, augment)}"] = {
            "mean_difference": round(mean, 3),
            "psnr_median": round(float(np.median(psnr)), 1) if psnr else None,
            "share_equal": round(1 - len(psnr) / len(squared), 3),
        }
    return found


if __name__ == "__main__":
    main()
