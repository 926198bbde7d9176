"""The verb `jtl features`: any layer's output, by name, for every example."""

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl import files, runtime
from jtl.errors import UserError, nearest
from jtl.verbs.contract import (
    BATCH_SIZE,
    Overrides,
    Verb,
    add_model,
    check_at_least,
    model_words,
    override_words,
    say_next,
    show,
)
from jtl.verbs.rows import check_writable

if TYPE_CHECKING:
    import jax
    import numpy

    import jtl.data
    import jtl.models
    import jtl.predictor
    import jtl.training.config

WHOLE, OWN = "none", "pre_head"
NUM_MAP_DIMS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_model(parser)
    parser.add_argument("--data", required=True, metavar="PATH", help="folder, table or .npz of examples")
    parser.add_argument(
        "--features",
        default="",
        metavar="NAMES",
        help="layers such as block6,stage3 (default: pre_head, the backbone's own features)",
    )
    parser.add_argument(
        "--pool", default="mean", metavar="HOW", help="mean, cls or cls_mean of tokens; none keeps whole maps"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="a .npz or .parquet file")


def run(
    *,
    run_folder: str = "",
    weights: str = "",
    data: str,
    layers: tuple[str, ...] = (),
    pool: str = "mean",
    batch_size: int = BATCH_SIZE,
    out: str,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Write the features of every example and return what was written.

    Raises:
        UserError: model, data, layers and output do not fit together.
    """
    import numpy as np

    from jtl import predictor
    from jtl.data import preflight
    from jtl.tasks import TASKS
    from jtl.tasks.contract import NO_LABELS
    from jtl.training import build, config

    write = _writer(out, pool)
    check_at_least("--batch-size", batch_size)
    if run_folder:
        found = predictor.of_run(run_folder)
    else:
        found = predictor.of_backbone(weights, config.weights_of(overrides))
    settings = config.with_overrides(build.with_data(found.settings, data), overrides)
    opened_splits = _splits(settings)
    checked = preflight.inspect(opened_splits, settings.data, config.input_of(settings.model))
    for line in checked.lines:
        sys.stderr.write(f"{line}\n")
    splits = checked.splits
    has_head = bool(run_folder) and TASKS[settings.task.name].label_kind != NO_LABELS
    opened = predictor.open(found._replace(settings=settings), has_head=has_head)
    opened, lines = predictor.fitted(opened, checked.facts)
    said = "\n".join([*lines, predictor.described(opened)])
    sys.stderr.write(f"{said}\n")
    layers = layers or (OWN,)
    check_layers(opened, layers, pool)
    step = make_step(opened, layers, pool)
    tables = [
        {"split": np.full(len(source), name), **extract(opened, step, source, batch_size)}
        for name, source in splits.items()
    ]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    names = next(iter(splits.values())).info.label_names
    write(columns, names)
    shapes = {name: list(columns[name].shape) for name in layers}
    sys.stderr.write(f"{out}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}\n")
    notes = [*checked.lines, *said.splitlines()]
    return {
        "out": out,
        "num_examples": len(columns["path"]),
        "features": shapes,
        "has_labels": "label" in columns,
        "notes": notes,
    }


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    result = run(
        run_folder=args.run,
        weights=args.weights,
        data=args.data,
        layers=tuple(name.strip() for name in args.features.split(",") if name.strip()),
        pool=args.pool,
        batch_size=args.batch_size,
        out=args.out,
        overrides=overrides,
    )
    show(args, result)
    say_next(*_following(args, overrides, result))
    return 0


def _following(args: argparse.Namespace, overrides: Overrides, result: Mapping[str, Any]) -> list[list[str]]:
    """Return the commands that come next: a head on these layers, and what a run says of the same data."""
    layers = [] if args.features == "" else [f"--config.model.features={tuple(result['features'])!r}"]
    data = args.data if result["has_labels"] else "LABELLED_DATA"
    settings = override_words(overrides, without="data.")
    spec = args.run or args.weights
    trained = ["jtl", "train", data, "--weights", spec, "--strategy", "probe", *layers, *settings]
    predicted = ["jtl", "predict", *model_words(args), args.data, *override_words(overrides)]
    return [trained, *([predicted] if args.run else [])]


def _splits(settings: "jtl.training.config.Config") -> "dict[str, jtl.data.Source]":
    """Open the data with its labels; without them, and with a line, where it has none that can be read."""
    from jtl.data import Labels
    from jtl.data.contract import NO_LABELS
    from jtl.training import build

    try:
        return build.open_splits(settings)
    except UserError as error:
        try:
            splits = build.open_source(settings, Labels(NO_LABELS))
        except UserError:
            raise error from None
        sys.stderr.write(f"features without labels: {error}\n")
        return splits


def extract(
    opened: "jtl.predictor.Predictor", step: Callable[..., Any], source: "jtl.data.Source", batch_size: int
) -> "dict[str, numpy.ndarray]":
    """Return paths, labels and what the compiled `step` gives, float32, of every example in order."""
    import numpy as np

    from jtl import predictor

    found: dict[str, list[np.ndarray]] = {}
    for batch, values in predictor.stepped(opened, step, predictor.batches(opened, source, batch_size)):
        for name, value in values.items():
            found.setdefault(name, []).append(np.asarray(value)[batch["mask"]])
    for name, parts in found.items():
        if len({part.shape[1:] for part in parts}) > 1:
            raise UserError(
                f"layer {name!r} has another shape where {opened.input.unit} are longer; expected one vector "
                f"an example: set --pool mean"
            )
    paths = np.array([source.describe(index) for index in range(len(source))])
    features = {name: np.concatenate(parts) for name, parts in found.items()}
    labels = source.labels()
    return {"path": paths, **({} if labels is None else {"label": labels}), **features}


def check_layers(opened: "jtl.predictor.Predictor", layers: tuple[str, ...], pool: str) -> None:
    """Raise UserError unless the model has every layer, and each can be pooled so."""
    from jtl import predictor

    known: Mapping[str, Any] = predictor.shapes(opened).intermediates
    for name in layers:
        if name not in known:
            raise UserError(
                f"--features names {name!r}, which is no layer; nearest: {nearest(name, known)}; all: "
                f"{', '.join(known)}"
            )
        if pool not in (WHOLE, "mean") and not _has_token(opened, known[name]):
            raise UserError(f"--pool is {pool!r} and layer {name!r} has no class token; set --pool mean")


def check_pool(pool: str) -> None:
    """Raise UserError unless features can be pooled so, or kept whole."""
    from jtl.models import head

    pools = (*head.TOKEN_POOLS, WHOLE)
    if pool not in pools:
        raise UserError(f"--pool is {pool!r}; expected one of {', '.join(pools)}")


def _has_token(opened: "jtl.predictor.Predictor", activations: Any) -> bool:
    """Return whether a layer's output, of these shapes, has a class token or is one vector an example."""
    import jax

    from jtl.models.contract import batch_of

    inputs = batch_of(opened.model.spec)
    try:
        jax.eval_shape(lambda layer, read: opened.model.pool(layer, read, "cls"), activations, inputs)
    except UserError:
        return False
    return activations.ndim != NUM_MAP_DIMS


def make_step(
    opened: "jtl.predictor.Predictor", layers: tuple[str, ...], pool: str
) -> Callable[[Any, Any], Any]:
    """Return the compiled function from (values, inputs) to the layers' (pooled) outputs, by name."""
    import jax

    from jtl.training import step

    @partial(jax.jit, compiler_options=runtime.forward_options())
    def compiled(values: Any, inputs: Any) -> Any:
        inputs = opened.input.normalise(inputs, opened.preprocess)
        outputs = step.forward_normalised(opened, values["params"], values["model_state"], inputs)
        found = outputs.intermediates
        return {name: pooled(found[name], opened.model, inputs, pool) for name in layers}

    return compiled


def pooled(activations: "jax.Array", model: "jtl.models.Model", inputs: Any, how: str) -> "jax.Array":
    """Return a layer's output as `--pool` says, float32; for use inside jit."""
    import jax.numpy as jnp

    if how == WHOLE:
        return activations.astype(jnp.float32)
    return model.pool(activations, inputs, how)


def _writer(out: str, pool: str) -> Callable[[Any, tuple[str, ...]], None]:
    """Return what writes the columns.

    Raises:
        UserError: the ending or the pooling is none of those known, or the folder is not there.
    """
    path = Path(out)
    check_pool(pool)
    check_writable(out, WRITERS)
    if pool == WHOLE and path.suffix.lower() != ".npz":
        raise UserError(f"--pool {WHOLE} keeps whole maps, which need an --out ending in .npz")

    def write(columns: Any, label_names: tuple[str, ...]) -> None:
        with files.replaced(path) as part:
            WRITERS[path.suffix.lower()](part, columns, label_names)

    return write


def _write_npz(path: Path, columns: "Mapping[str, numpy.ndarray]", label_names: tuple[str, ...]) -> None:
    import numpy as np

    arrays: dict[str, Any] = {**columns, "label_names": np.array(label_names)}
    with path.open("wb") as stream:  # of a path, NumPy changes the name
        np.savez(stream, **arrays)


def _write_parquet(path: Path, columns: "Mapping[str, numpy.ndarray]", label_names: tuple[str, ...]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {name: pa.array(list(values) if values.ndim > 1 else values) for name, values in columns.items()}
    labels = columns.get("label")
    if labels is not None and label_names and labels.ndim == 1:
        table["label_name"] = pa.array([label_names[index] for index in labels])
    with path.open("wb") as stream:  # of a path, it takes UTF-8 alone
        pq.write_table(pa.table(table), stream)


WRITERS: dict[str, Callable[[Path, Any, tuple[str, ...]], None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}

VERB = Verb("write any layer's output for every example", add_arguments, _command)
