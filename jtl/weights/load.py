"""Loading weights into a freshly initialised model, every source tensor and every leaf accounted for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from jtl import tree
from jtl.errors import UserError
from jtl.inputs import INPUTS
from jtl.models import MODELS
from jtl.models.head import Settings
from jtl.weights import FAMILIES, plan, problems
from jtl.weights.contract import Config, Grid, Loaded, Origin, TensorFile
from jtl.weights.head import PREFIX
from jtl.weights.hub import named
from jtl.weights.hub import resolve as hub
from jtl.weights.names import assign
from jtl.weights.origins import origins_of
from jtl.weights.recognise import of_family, of_file
from jtl.weights.report import LoadReport

Draw = Callable[[Sequence[str]], Mapping[str, Any]]
MAX_EPSILON = 1e-6
# What may differ from what the weights were made with: it changes what is read out, how, or training alone.
FREE_FIELDS = {
    *(each.name for each in fields(Settings)),
    *("pool", "feature_norm", "projection_dim", "has_unit_features"),
    *("dropout", "attention_dropout", "drop_path", "norm_momentum", "image_px"),
    *("num_prompts", "has_deep_prompts", "attention"),
}


def load(
    spec: str,
    *,
    family: str,
    config: Any,
    model_params: Mapping[str, Any],
    model_state: Mapping[str, Any],
    settings: Config,
    label_names: tuple[str, ...] = (),
    draw: Draw | None = None,
) -> Loaded:
    """Return the spec's weights fitted to a model of `family` whose fresh leaves are given.

    `config` is the model's; `label_names` are the new classes in the order of its outputs (for `head` "map").
    With `draw(names)` → fresh leaves by full name, those given are shapes alone, and only the leaves that the
    weights do not fill are drawn.

    Raises:
        UserError: the weights cannot be had or read, or are not of this model.
    """
    found, file = hub.opened(spec, settings)
    if file.stated and family not in file.stated:
        of_file(file)  # raises where the config.json beside it is of another model than the tensors
    names = FAMILIES[family]
    leaves = tree.flatten({"params": model_params, "model_state": model_state})
    if draw is not None:
        # A map of labels copies into the fresh head.
        leaves |= draw([name for name in leaves if name.startswith(PREFIX)])
    origins = origins_of(file.tensors, family)
    best = assign.best_origin(origins, file.tensors)
    if best is None:
        raise UserError(problems.wrong_family(spec, file, family))
    origin, assignment = origins[best[0]], best[1]
    target = plan.Target(names, leaves, names.grid(config), settings)
    planned = plan.make(target, file, origin, assignment, label_names, _source_grid(file, family))
    if not planned.is_sound:
        raise UserError(problems.misfit(spec, file, MODELS[family].resolve(config), origin, planned))
    if differing := differing_settings(family, config, _described(file, family, origin)):
        raise UserError(problems.other_settings(spec, differing))
    preprocess, guessed = _preprocess(spec, file, family, leaves)
    if draw is not None:
        leaves |= draw([name for name in planned.new if not name.startswith(PREFIX)])
    fitted = tree.unflatten(
        {name: np.asarray(leaf, np.float32) for name, leaf in (leaves | read(file, planned, leaves)).items()}
    )
    return Loaded(
        params=fitted.get("params", {}),
        model_state=fitted.get("model_state", {}),
        report=LoadReport(spec, f"{file.format}, {origin.title}", planned.rows(file, leaves), file.notes),
        preprocess=preprocess,
        label_names=file.label_names,
        source=spec,
        sha256=found.sha256,
        guessed=guessed,
    )


def read(file: TensorFile, planned: plan.Plan, leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read the tensors that fill leaves, one at a time, and return the leaves.

    Raises:
        UserError: a tensor holds values that are not finite.
    """
    filled: dict[str, np.ndarray] = {}
    for name, fill in planned.fills.items():
        array = file.tensors[name].read().astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise UserError(
                f"tensor {name!r} of {str(file.path)!r} holds {int((~np.isfinite(array)).sum())} values that "
                f"are not finite; get the weights again"
            )
        expected = tuple(tuple(leaves[leaf].shape) for leaf in fill.assigned.targets)
        parts = fill.assigned.row.op.forward(array, expected)
        for leaf, part, shape in zip(fill.assigned.targets, parts, expected, strict=True):
            # A copy, so that the three parts of a fused tensor do not keep the whole of it.
            filled[leaf] = np.array(fill.change(part), np.float32, order="C")
            assert filled[leaf].shape == shape, (leaf, filled[leaf].shape, shape)
    return filled


def _preprocess(
    spec: str, file: TensorFile, family: str, leaves: Mapping[str, Any]
) -> tuple[Any | None, str]:
    """Return what came with the weights of pre-processing, else what their name tells and what told it.

    What came is of use if it is of the kind of input that the model reads.
    """
    kind = INPUTS[MODELS[family].input]
    if isinstance(file.preprocess, kind.Preprocess):
        return file.preprocess, ""
    guess = named.guess(spec, file, family)
    if guess is None:
        return None, ""
    num_channels = leaves[FAMILIES[family].input_kernel].shape[2]
    return guess.preprocess.with_channels(num_channels), guess.why


def _described(file: TensorFile, family: str, origin: Origin) -> Mapping[str, Any]:
    """Return the settings that a library, a config.json or a run says its weights were made with."""
    if file.family == family:
        return vars(MODELS[family].resolve(MODELS[family].Config(**file.config_fields)))
    return {**origin.config_fields, **file.stated.get(family, {})}


def differing_settings(family: str, config: Any, described: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that no tensor tells, in which a model differs from its weights': (its, theirs)."""
    own = MODELS[family].resolve(config)
    settled = {name: value for name, value in described.items() if name not in FREE_FIELDS and value}
    return {
        name: (getattr(own, name), value)
        for name, value in settled.items()
        if not _is_same(getattr(own, name), value)
    }


def _is_same(own: Any, theirs: Any) -> bool:
    """Return whether two values of a setting are one; epsilons of 1e-6 or less count as equal."""
    if isinstance(own, float) and isinstance(theirs, float):
        return abs(own - theirs) <= MAX_EPSILON
    return own in (theirs, (theirs, theirs))


def _source_grid(file: TensorFile, family: str) -> Grid | None:
    """Return the grid of the model that a run folder or a config.json describes."""
    is_described = file.family == family or family in file.stated
    found = of_family(file, family) if is_described else None
    return None if found is None else FAMILIES[family].grid(MODELS[family].Config(**found.config_fields))
