"""Holds every export of a run of images against the trainer's own validation logits, from file bytes.

    python -m benchmarks.export RUN OUT [KIND …]

Writes each kind of artefact below the new folder OUT and has its library run it: StableHLO by jax in a
process without jtl, ONNX by ONNX Runtime, SavedModel by TensorFlow, folders by timm and transformers with
their own pre-processing. A kind whose library is not there is named and left out. Prints a row of
docs/export.md each.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jtl import predictor as predictors
from jtl.data import Source
from jtl.export import parity
from jtl.predictor import Predictor
from jtl.training import build, config, evaluate, sharding, step
from jtl.training.state import State
from jtl.verbs import evaluate as evaluate_verb
from jtl.verbs import export, predict
from jtl.verbs.bench import empty_torchvision

BATCH_SIZE = 51
PACKAGES = (
    "jax",
    "flatbuffers",
    "onnxruntime",
    "jax2onnx",
    "tensorflow-cpu",
    "torch",
    "timm",
    "transformers",
)
# Run in processes that find no jtl: (folder, file of inputs, file of logits).
PROGRAMS = {
    "stablehlo": """
import sys, numpy as np
from jax import export
from safetensors.numpy import load_file
folder, given, found = sys.argv[1:]
model = export.deserialize(bytearray(open(folder + "/model.stablehlo", "rb").read()))
np.save(found, model.call(load_file(folder + "/model.safetensors"), np.load(given)))
assert "jtl" not in sys.modules
""",
    "onnx": """
import sys, numpy as np, onnxruntime
folder, given, found = sys.argv[1:]
session = onnxruntime.InferenceSession(folder + "/model.onnx")
np.save(found, session.run(None, {session.get_inputs()[0].name: np.load(given)})[0])
""",
    "saved_model": """
import sys, numpy as np, tensorflow as tf
folder, given, found = sys.argv[1:]
serve = tf.saved_model.load(folder).signatures["serving_default"]
np.save(found, serve(inputs=tf.constant(np.load(given)))["logits"].numpy())
""",
}


class Known(NamedTuple):
    """The run opened, its validation images, and the trainer's logits of them."""

    run: str
    opened: Predictor
    source: Source
    logits: np.ndarray


def main(run: str, out: str, *kinds: str) -> None:
    """Compare everything and print a row each; exit with 1 where one is beyond the tolerance."""
    folder = Path(out)
    folder.mkdir()
    known = _known(run)
    sys.stdout.write(
        f"{json.dumps(_versions())}\n| what | largest difference of a logit | same class |\n|---|---|---|\n"
    )
    rows = [_row("`jtl predict` (probabilities)", *_predicted(known)), _evaluated(known)]
    for kind, check in CHECKS.items():
        if not kinds or kind in kinds:
            rows += check(known, kind, folder / kind)
    sys.exit(0 if all(rows) else 1)


def _known(run: str) -> Known:
    """Return the run with the logits that the trainer's own output step gives of its validation images."""
    trained = predictors.of_run(run)
    trained = trained._replace(settings=config.with_overrides(trained.settings, [("sharding.devices", "1")]))
    opened = predictors.open(trained)
    source = build.open_splits(trained.settings, trained.stats)["val"]
    built = build.build(trained.settings, trained.stats, 1)
    state = State(jnp.zeros([], jnp.int32), built.params, {}, built.model_state, (), {})
    batches = evaluate.batches_of(
        source,
        built.parts.input,
        built.parts.preprocess,
        batch_size=BATCH_SIZE,
        mesh=sharding.mesh(trained.settings.sharding),
        settings=trained.settings.inputs,
    )
    parts = built.parts._replace(preprocess=opened.preprocess)
    found, _ = evaluate.collect(step.make_output_step(parts), state, batches, ("logits",), mesh=opened.mesh)
    return Known(run, opened, source, found["logits"])


def _predicted(known: Known) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of `jtl predict` on the files, and the trainer's, in the outputs' order."""
    paths = [known.source.describe(row) for row in range(len(known.source))]
    names = known.opened.stats.label_names
    found = predict.run(run_folder=known.run, inputs=paths, top=len(names), batch_size=BATCH_SIZE)
    by_path = {row["path"]: row["predictions"] for row in found["images"]}
    values = np.zeros_like(known.logits)
    for row, path in enumerate(paths):
        for each in by_path[path]:
            values[row, each["index"]] = each["value"]
    powers = np.exp(known.logits - known.logits.max(axis=1, keepdims=True))
    return values, powers / powers.sum(axis=1, keepdims=True)


def _evaluated(known: Known) -> bool:
    """Return whether `jtl evaluate` counts what the trainer's logits count."""
    found = evaluate_verb.run(run_folder=known.run, split="val", batch_size=BATCH_SIZE)
    labels = np.asarray(known.source.labels())
    expected = float(np.mean(known.logits.argmax(axis=1) == labels))
    is_same = abs(found["metrics"]["accuracy"] - expected) < 1e-6
    sys.stdout.write(f"| `jtl evaluate` | accuracy {found['metrics']['accuracy']:.4f} | {is_same} |\n")
    return is_same


def _programs(known: Known, kind: str, folder: Path) -> list[bool]:
    """Export a program and run it in a process of its own on the bytes that the images become."""
    rows = []
    for title, options in {"": {}, ", int8": {"is_int8": True}}.items():
        place = folder.with_name(f"{folder.name}{'-int8' if options else ''}")
        if not _exported(known, kind, place, **options):
            return []
        given, found = place / "given.npy", place / "found.npy"
        np.save(given, np.stack([_pixels(known, row) for row in range(len(known.source))]))
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROGRAMS[kind], str(place), str(given), str(found)], check=False
        )
        if done.returncode:
            return [False]
        rows.append(_row(f"{kind}{title}", np.load(found), known.logits, is_exact=not options))
    return rows


def _timm(known: Known, kind: str, folder: Path) -> list[bool]:
    """Have timm load the folder, of jtl's pixels, and of the files by its own transform (of torchvision)."""
    lacking = empty_torchvision.in_place()
    try:
        import timm
        import torch
    except ImportError as error:
        return _left_out(kind, error)
    if not _exported(known, kind, folder):
        return []
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        of_pixels = [model(_normalised(known, row)).numpy()[0] for row in range(len(known.source))]
    rows = [_row("timm on jtl's pixels", np.stack(of_pixels), known.logits)]
    if lacking:
        return [*rows, *_left_out("timm, its own transform", ImportError("torchvision cannot be imported"))]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        found = [model(transform(_image(known, row))[None]).numpy()[0] for row in range(len(known.source))]
    return [*rows, _row("timm, its own transform", np.stack(found), known.logits)]


def _transformers(known: Known, kind: str, folder: Path) -> list[bool]:
    """Have transformers load the folder; of jtl's pixels, and of the files by its own processor."""
    try:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        return _left_out(kind, error)
    if not _exported(known, kind, folder):
        return []
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    of_files, of_pixels = [], []
    for row in range(len(known.source)):
        given = processor(_image(known, row), return_tensors="pt")
        with torch.no_grad():
            of_pixels.append(model(_normalised(known, row)).logits.numpy()[0])
            of_files.append(model(**given).logits.numpy()[0])
    return [
        _row(f"{kind}: transformers on jtl's pixels", np.stack(of_pixels), known.logits),
        _row(f"{kind}: transformers, its own processor", np.stack(of_files), known.logits, is_exact=False),
    ]


def _exported(known: Known, kind: str, folder: Path, **options: Any) -> bool:
    """Export, and return whether it was possible; what is missing is named."""
    try:
        export.run(run_folder=known.run, to=kind, out=str(folder), num_examples=0, **options)
    except ValueError as error:
        _left_out(kind, error)
        return False
    return True


def _left_out(kind: str, error: Exception) -> list[bool]:
    sys.stdout.write(f"| {kind} | left out: {error} | |\n")
    return []


def _row(title: str, found: np.ndarray, expected: np.ndarray, *, is_exact: bool = True) -> bool:
    measured = parity.compared(np.asarray(found), expected)
    is_good = measured.largest <= parity.TOLERANCE or not is_exact
    sys.stdout.write(
        f"| {title} | {measured.largest:.1e} (logits up to {measured.scale:.1f}) | {measured.num_same} of "
        f"{measured.num_examples} |{'' if is_good else ' beyond the tolerance'}\n"
    )
    sys.stdout.flush()
    return is_good


def _pixels(known: Known, row: int) -> np.ndarray:
    transform = known.opened.input.transform(known.opened.preprocess, None)
    return transform(known.source[row]["raw"], None)


def _normalised(known: Known, row: int) -> Any:
    """Return jtl's pixels of an image as PyTorch takes them, [1, channels, height, width]."""
    import torch

    pixels = known.opened.input.normalise(_pixels(known, row)[None], known.opened.preprocess)
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)


def _image(known: Known, row: int) -> Any:
    from PIL import Image

    return Image.open(BytesIO(known.source[row]["raw"])).convert("RGB")


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


CHECKS: dict[str, Callable[[Known, str, Path], Sequence[bool]]] = {
    "stablehlo": _programs,
    "onnx": _programs,
    "saved_model": _programs,
    "timm": _timm,
    "huggingface": _transformers,
    "hub-folder": _transformers,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
