"""A model that is trained already: a run folder, or pretrained weights with or without a head of their own.

`of_run`, `of_weights`, `of_backbone` and `of_classes` say how it is built, and read no values; `open` builds
it and puts its values on the devices. What every verb after training stands on.
"""

import importlib.resources
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jtl import files, metrics, runtime
from jtl.data import Source, pipeline
from jtl.errors import UserError
from jtl.inputs import Input, Inputs
from jtl.models import Model, Outputs, layers
from jtl.models.shapes import output_shapes
from jtl.strategies import STRATEGIES, Strategy
from jtl.tasks import TASKS, LabelStats, Task
from jtl.training import build, config, evaluate, precision, seen, sharding, step
from jtl.training.config import Config
from jtl.training.step import Batch
from jtl.weights import Config as Weights
from jtl.weights import zero_shot
from jtl.weights.contract import Loaded
from jtl.weights.recognise import recognise
from jtl.weights.run_folder import FUSION_NAME

# {"params": …, "model_state": …}
Values = Mapping[str, Any]
PLAIN = Strategy(groups=lambda names: {})


class Trained(NamedTuple):
    """What a model is built by: its settings, and what it knows of its labels."""

    settings: Config
    stats: LabelStats


class Predictor(NamedTuple):
    """A model ready to predict: what it reads, its values on the devices, and what it knows of its labels.

    It has all that `step.forward` and `step.measured` ask for. `task` is None where the model has no head,
    `loaded` (where the values came from) where they are random.
    """

    settings: Config
    stats: LabelStats
    input: Input
    preprocess: Any
    model: Model
    task: Task | None
    values: Values
    loaded: Loaded | None
    mesh: Mesh

    @property
    def strategy(self) -> Strategy:
        """The plain forward pass: what a strategy adds is folded into the values that a run writes."""
        return PLAIN

    @property
    def seed(self) -> int:
        """What all chance in its task comes from."""
        return self.settings.train.seed


def of_run(run_folder: str) -> Trained:
    """Return the model of a run folder.

    Raises:
        UserError: the folder is none, or has not come to an end.
    """
    folder = Path(run_folder)
    if not (folder / "config.json").is_file() and (folder / FUSION_NAME).is_file():
        raise UserError(
            f"{str(folder)!r} holds the predictions of an ensemble, which is no one model; expected a run "
            f"folder, such as those that its {FUSION_NAME} names"
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{str(folder)!r} is no run folder: config.json is missing; expected what --workdir named"
        )
    if not (folder / "meta.json").is_file():
        raise UserError(f"run {str(folder)!r} has no meta.json yet; repeat its training command first")
    settings = config.of_folder(folder)
    labels = LabelStats.of_record(files.read_record(folder / "meta.json").below("labels"))
    return Trained(_with_own_head(settings, str(folder)), labels)


def of_weights(spec: str, weights: Weights | None = None, *, needs_head: bool = True) -> Trained:
    """Return the model of pretrained weights; its classes are numbers where they have no names.

    Without a head of their own, where that is allowed, it is the backbone, which has no classes. `weights`
    are settings of how they are read.

    Raises:
        UserError: the weights are of no model jtl knows, or have no head and need one.
    """
    found = recognise(spec, weights)
    if found.num_outputs < build.MIN_OUTPUTS:
        if needs_head:
            raise UserError(
                f"{spec!r} has no classification head; give a run folder with --run instead, or ask for "
                f"zero-shot classification (CLIP, SigLIP): predict --classes NAMES, evaluate --zero-shot"
            )
        return of_backbone(spec, weights)
    settings = config.from_dict({"model": {"name": found.family, **found.config_fields}})
    settings = replace(settings, weights=weights or settings.weights)
    names = found.label_names or tuple(str(index) for index in range(found.num_outputs))
    return _of_names(_with_own_head(settings, spec), names)


def of_backbone(spec: str, weights: Weights | None = None) -> Trained:
    """Return the model of pretrained weights, read by the settings `weights`, without a head.

    Raises:
        UserError: the weights are of no model jtl knows.
    """
    found = recognise(spec, weights)
    fields = {**found.config_fields, "name": found.family, "weights": spec}
    settings = config.from_dict({"model": fields})
    return Trained(replace(settings, weights=_with_head(weights, "new")), LabelStats((), 0))


def of_classes(spec: str, names: tuple[str, ...], weights: Weights | None = None) -> Trained:
    """Return a CLIP or SigLIP whose head is made of class names.

    Raises:
        UserError: the weights are of no model jtl knows.
    """
    return _of_names(zero_shot_settings(spec, weights), names)


def zero_shot_settings(spec: str, weights: Weights | None = None) -> Config:
    """Return the settings of a CLIP or SigLIP whose head is made of class names.

    Raises:
        UserError: the weights are of no model jtl knows.
    """
    found = recognise(spec, weights)
    fields = {**found.config_fields, **zero_shot.MODEL_FIELDS, "name": found.family, "weights": spec}
    settings = config.from_dict({"model": fields})
    return replace(settings, weights=_with_head(weights, zero_shot.HEAD))


def open(trained: Trained, *, has_head: bool = True) -> Predictor:
    """Build the model, and put its values on the devices.

    Raises:
        UserError: the weights cannot be had, or do not fit the settings.
    """
    settings = trained.settings
    if not has_head:
        # The head that the weights have, such as one that tells words, is left out.
        settings = replace(settings, weights=replace(settings.weights, head="new"))
    found = build.assembled(settings, trained.stats, has_head=has_head)
    mesh = sharding.mesh(settings.sharding)
    return Predictor(
        settings=settings,
        stats=trained.stats,
        input=found.input,
        preprocess=found.preprocess,
        model=found.model,
        task=found.task,
        values=placed({"params": found.params, "model_state": found.model_state}, mesh),
        loaded=found.loaded,
        mesh=mesh,
    )


def placed(values: Values, mesh: Mesh) -> Values:
    """Return the values on the devices, whole on each."""
    return jax.device_put(dict(values), NamedSharding(mesh, PartitionSpec()))


def fitted(predictor: Predictor, facts: Sequence[Any]) -> tuple[Predictor, list[str]]:
    """Return the predictor reading examples of which the kind of input found these facts, and lines on that.

    Raises:
        UserError: they do not fit what the model was trained with.
    """
    preprocess, lines = predictor.input.fitted(
        predictor.preprocess, facts, predictor.settings.preprocess, is_trained=True
    )
    return predictor._replace(preprocess=preprocess), lines


def described(predictor: Predictor) -> str:
    """Return how the model sees its inputs, and what was decided about its weights; a line each."""
    loaded, changes = predictor.loaded, predictor.settings.preprocess
    remarks = [] if loaded is None else loaded.report.remarks()
    text = seen.preprocess_text(predictor.input, predictor.preprocess, loaded, changes)
    is_exact = layers.compute_dtype(predictor.settings.model.dtype) == jnp.float32
    computes = [] if is_exact else precision.remarks(predictor.settings, {})
    return "\n".join([*remarks, text, *computes])


def forward(predictor: Predictor, values: Values, inputs: Inputs) -> Outputs:
    """Return what the model gives for inputs as `transform` gives them; for use inside jit.

    `values` are the predictor's own, or others of the same model.
    """
    return step.forward(predictor, values["params"], values["model_state"], inputs)


def make_eval_step(
    predictor: Predictor, views: Sequence[str] = ()
) -> Callable[[Values, Batch], metrics.Sums]:
    """Return the compiled evaluation of one batch: the task's sums over the examples whose mask is true.

    Predictions are averaged over the examples as they are and as the `views` of the kind of input show them.

    Raises:
        UserError: the kind of input has no such view.
    """
    known = predictor.input.views
    for name in views:
        if name not in known:
            raise UserError(
                f"{name!r} is no view of {predictor.input.unit}; expected one of: "
                f"{', '.join(known) or 'none'}"
            )

    def eval_step(values: Values, batch: Batch) -> metrics.Sums:
        if not views:
            return step.measured(predictor, values["params"], values["model_state"], batch)
        task, seen = predictor.task, step.with_targets(predictor, batch)
        assert task is not None, "a model without a head has no metrics"
        inputs = [seen["inputs"], *(known[name](seen["inputs"]) for name in views)]
        logits = [
            step.forward_normalised(predictor, values["params"], values["model_state"], each).logits
            for each in inputs
        ]
        averaged = task.averaged(jnp.stack(logits))
        return step.with_logits(task.metrics(averaged, seen), averaged)

    return jax.jit(eval_step, compiler_options=runtime.forward_options())


def make_predict_step(predictor: Predictor) -> Callable[[Values, Inputs], Array]:
    """Return the compiled prediction of one batch: what the task says to people [batch, outputs]."""
    task = predictor.task
    assert task is not None, "a model without a head predicts nothing"

    def predict_step(values: Values, inputs: Inputs) -> Array:
        return task.predictions(forward(predictor, values, inputs).logits)

    return jax.jit(predict_step, compiler_options=runtime.forward_options())


def batches(
    predictor: Predictor,
    source: Source,
    batch_size: int,
    *,
    marks_unreadable: bool = False,
    is_read_again: bool = False,
) -> pipeline.EvalBatches:
    """Return padded batches of the examples as the model sees them, in order, again each time.

    With `marks_unreadable` the batches' "fault" says why an example cannot be read, which stops nothing.
    `is_read_again` is as `pipeline.eval_batches` has it.
    """
    spec = predictor.input.spec(predictor.preprocess)
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), spec)
    return evaluate.batches_of(
        source,
        predictor.input,
        predictor.preprocess,
        batch_size=batch_size,
        mesh=predictor.mesh,
        settings=predictor.settings.inputs,
        blank=blank if marks_unreadable else None,
        is_read_again=is_read_again,
    )


def measure(
    predictor: Predictor, source: Source, batch_size: int, views: Sequence[str] = ()
) -> metrics.Summary:
    """Return the task's metrics over the examples, of predictions averaged over them and their `views`."""
    assert predictor.task is not None, "a model without a head has no metrics"
    return evaluate.measure(
        make_eval_step(predictor, views),
        predictor.values,
        batches(predictor, source, batch_size),
        mesh=predictor.mesh,
        task=predictor.task,
        num_examples=len(source),
    )


def stepped(
    predictor: Predictor, compiled: Callable[[Values, Inputs], Any], batches: Iterable[Batch]
) -> Iterator[tuple[Batch, Any]]:
    """Yield each batch with what a compiled step gives of (values, inputs), the next one's begun before."""

    def begin(batch: Batch) -> Any:
        return compiled(predictor.values, sharding.put_batch(batch["inputs"], predictor.mesh))

    # Whole maps of several batches would fill the devices.
    yield from evaluate.ahead(begin, batches, num_ahead=1)


def ranked(values: np.ndarray, label_names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return the `top` classes by probability; without class names, the values in their order.

    >>> ranked(np.array([0.1, 0.7, 0.2]), ("ant", "bee", "cow"), 1)
    [{'label': 'bee', 'index': 1, 'value': 0.7}]
    """
    order = np.argsort(-values, kind="stable")[:top] if label_names else range(len(values))
    names = label_names or [f"value{index}" for index in range(len(values))]
    return [{"label": names[index], "index": int(index), "value": float(values[index])} for index in order]


def shapes(predictor: Predictor) -> Outputs:
    """Return shapes and dtypes of all outputs for one example."""
    return output_shapes(predictor.model, predictor.values["params"], predictor.values["model_state"])


def with_names(found: Trained, names: tuple[str, ...]) -> Trained:
    """Return the model with other names of its classes, in the order of its outputs.

    Raises:
        UserError: there are not as many as it has outputs.
    """
    count = len(found.stats.label_names)
    if len(names) != count:
        raise UserError(f"{len(names)} class names are given; expected one for each of {count} outputs")
    return found._replace(stats=found.stats._replace(label_names=names))


def has_names(found: Trained) -> bool:
    """Return whether the classes have names, and are not known by their indices alone."""
    names = found.stats.label_names
    return names != tuple(str(index) for index in range(len(names)))


def imagenet_names() -> tuple[str, ...]:
    """Return names of the 1000 classes of ImageNet-1k in the usual order (by synset), after WordNet 3.0."""
    path = importlib.resources.files("jtl") / "assets" / "imagenet_1k.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def _with_head(weights: Weights | None, head: str) -> Weights:
    """Return the settings with that kind of head, which needs no map of labels."""
    return replace(weights or Weights(), head=head, label_map={})


def _of_names(settings: Config, names: tuple[str, ...]) -> Trained:
    """Return the model of classes of which there are no examples but the names."""
    return Trained(settings, TASKS[settings.task.name].stats(np.arange(len(names)), names))


def _with_own_head(settings: Config, spec: str) -> Config:
    return replace(
        settings,
        model=replace(settings.model, weights=spec),
        # A run's own map of labels led to the head it has now.
        weights=_with_head(replace(settings.weights, sha256=""), "load"),
        preprocess=config.input_of(settings.model).remaining(settings.preprocess),
        # What a run writes has its strategy's additions folded in.
        strategy=STRATEGIES["full"].Config(),
    )
