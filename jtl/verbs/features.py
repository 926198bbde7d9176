"""Features by name: any layer's output for every image, the verb `jtl features`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jtl import predictor
from jtl.data import Source
from jtl.errors import UserError, nearest
from jtl.inputs import on_device
from jtl.inputs.preprocess import Preprocess
from jtl.models import Model, Outputs, head
from jtl.models.contract import batch_of
from jtl.training import build, config, sharding
from jtl.training.evaluate import batches_of
from jtl.training.step import predict

WHOLE, OWN = "none", "pre_head"
NUM_MAP_DIMS = 4


class Request(NamedTuple):
    """What `jtl features` was asked: a model, data, layers by name, how to pool them, and where to."""

    run_folder: str | None
    weights: str | None
    data: str
    features: tuple[str, ...]
    pool: str
    batch_size: int
    out: str
    overrides: list[tuple[str, str]]


class Extractor(NamedTuple):
    """A model ready to give features: `apply(arrays, inputs)` → Outputs, and what it needs."""

    model: Model
    arrays: Any
    apply: Callable[[Any, jax.Array], Outputs]
    preprocess: Preprocess


def run(request: Request) -> dict[str, Any]:
    """Write the features of every example and return what was written.

    Raises:
        UserError: model, data, layers and output do not fit together.
    """
    write = _writer(request)
    found = (
        predictor.of_run(request.run_folder)
        if request.run_folder
        else predictor.of_weights(request.weights or "", needs_head=False)
    )
    settings = config.with_overrides(build.with_data(found.settings, request.data), request.overrides)
    splits = build.open_splits(settings)
    extractor = _of_run(settings, found) if request.run_folder else _of_weights(settings)
    layers = request.features or (OWN,)
    check_layers(extractor, layers, request.pool)
    tables = [
        {"split": np.full(len(source), name), **extract(extractor, source, layers, request, settings)}
        for name, source in splits.items()
    ]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    names = next(iter(splits.values())).info.label_names
    write(columns, names)
    shapes = {name: list(columns[name].shape) for name in layers}
    sys.stderr.write(f"{request.out}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}\n")
    return {"out": request.out, "num_examples": len(columns["path"]), "features": shapes}


def extract(
    extractor: Extractor,
    source: Source,
    layers: tuple[str, ...],
    request: Request,
    settings: config.Config,
) -> dict[str, np.ndarray]:
    """Return paths, labels and the layers' (pooled) outputs, float32, of every example in order."""
    mesh = sharding.mesh(settings.sharding)

    @jax.jit
    def step(arrays: Any, images: jax.Array) -> dict[str, jax.Array]:
        inputs = on_device.normalise(images, extractor.preprocess)
        outputs = extractor.apply(arrays, inputs)
        found = {name: outputs.intermediates[name] for name in layers}
        return {name: _pooled(each, extractor.model, inputs, request.pool) for name, each in found.items()}

    found: dict[str, list[np.ndarray]] = {name: [] for name in layers}
    batches = batches_of(
        source, extractor.preprocess, batch_size=request.batch_size, mesh=mesh, settings=settings.input
    )
    for batch in batches:
        values = step(extractor.arrays, sharding.put_batch({"image": batch["image"]}, mesh)["image"])
        for name, value in values.items():
            found[name].append(np.asarray(value)[batch["mask"]])
    paths = np.array([source.describe(index) for index in range(len(source))])
    features = {name: np.concatenate(parts) for name, parts in found.items()}
    return {"path": paths, "label": source.labels(), **features}


def check_layers(extractor: Extractor, layers: tuple[str, ...], pool: str) -> None:
    """Raise UserError unless the model has every layer, and each can be pooled so."""
    inputs = batch_of(extractor.model.spec)
    known: Mapping[str, Any] = jax.eval_shape(extractor.apply, extractor.arrays, inputs).intermediates
    for name in layers:
        if name not in known:
            raise UserError(
                f"--features names {name!r}, which is no layer; nearest: {nearest(name, known)}; all: "
                f"{', '.join(known)}"
            )
        if pool not in (WHOLE, "mean") and not _has_token(extractor.model, known[name], inputs):
            raise UserError(f"--pool is {pool!r} and layer {name!r} has no class token; set --pool mean")


def _has_token(model: Model, activations: Any, inputs: Any) -> bool:
    """Return whether a layer's output, of these shapes, has a class token or is one vector an example."""
    try:
        jax.eval_shape(lambda layer, read: model.pool(layer, read, "cls"), activations, inputs)
    except UserError:
        return False
    return activations.ndim != NUM_MAP_DIMS


def _of_run(settings: config.Config, found: predictor.Trained) -> Extractor:
    ready = predictor.ready(settings, found.stats)
    parts = ready.built.parts

    def apply(arrays: Any, inputs: jax.Array) -> Outputs:
        return predict(parts, arrays[0], arrays[1], inputs)

    return Extractor(parts.model, (ready.built.params, ready.built.model_state), apply, parts.preprocess)


def _of_weights(settings: config.Config) -> Extractor:
    model, loaded, preprocess = build.backbone(settings)
    sys.stderr.write(build.preprocess_text(preprocess, loaded) + "\n")

    def apply(arrays: Any, inputs: jax.Array) -> Outputs:
        return model.apply(arrays[0], arrays[1], inputs, train=False)

    return Extractor(model, (loaded.params, loaded.model_state), apply, preprocess)


def _pooled(activations: jax.Array, model: Model, inputs: Any, how: str) -> jax.Array:
    if how == WHOLE:
        return activations.astype(jnp.float32)
    return model.pool(activations, inputs, how)


def _writer(request: Request) -> Callable[[Mapping[str, np.ndarray], tuple[str, ...]], None]:
    """Return what writes the columns.

    Raises:
        UserError: the ending or the pooling is none of those known, or the folder is not there.
    """
    path = Path(request.out)
    pools = (*head.TOKEN_POOLS, WHOLE)
    if request.pool not in pools:
        raise UserError(f"--pool is {request.pool!r}; expected one of {', '.join(pools)}")
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"--out {request.out!r} ends in {path.suffix!r}; expected {' or '.join(WRITERS)}")
    if request.pool == WHOLE and path.suffix.lower() != ".npz":
        raise UserError(f"--pool {WHOLE} keeps whole maps, which need an --out ending in .npz")
    if not path.parent.is_dir():
        raise UserError(f"--out {request.out!r}: folder {str(path.parent)!r} is not there; make it first")
    return lambda columns, label_names: WRITERS[path.suffix.lower()](path, columns, label_names)


def _write_npz(path: Path, columns: Mapping[str, np.ndarray], label_names: tuple[str, ...]) -> None:
    arrays: dict[str, Any] = {**columns, "label_names": np.array(label_names)}
    np.savez(path, **arrays)


def _write_parquet(path: Path, columns: Mapping[str, np.ndarray], label_names: tuple[str, ...]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {name: pa.array(list(values) if values.ndim > 1 else values) for name, values in columns.items()}
    labels = columns["label"]
    if label_names and labels.ndim == 1:
        table["label_name"] = pa.array([label_names[index] for index in labels])
    pq.write_table(pa.table(table), path)


WRITERS: dict[str, Callable[[Path, Mapping[str, np.ndarray], tuple[str, ...]], None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
