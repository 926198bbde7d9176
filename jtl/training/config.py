"""The resolved configuration: what a config file says, read once and strictly into frozen dataclasses.

A setting is declared beside the code that reads it; here they
are put together. An unknown key is an error, from the file and from the command line alike.
"""

import os
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from jtl import files
from jtl.data import SOURCES, tell
from jtl.data.pipeline import Config as InputsConfig
from jtl.errors import UserError, nearest, shown
from jtl.inputs import INPUTS, Input
from jtl.models import MODELS, layers, rematerialise
from jtl.strategies import STRATEGIES
from jtl.tasks import TASKS
from jtl.training import config_file, reading
from jtl.training.optim import Config as Optim
from jtl.training.settings import Train
from jtl.training.sharding import Config as Sharding
from jtl.weights import Config as Weights
from jtl.weights.contract import NO_WEIGHTS
from jtl.weights.recognise import recognise


@dataclass(frozen=True)
class Config:
    """Everything a run depends on, a section per part; `preprocess` and `augment` are the input kind's.

    With `baseline` the same model is also trained from random weights on the same data, under RUN/scratch,
    and both results are printed side by side.
    """

    model: Any
    data: Any
    task: Any
    strategy: Any
    preprocess: Any
    augment: Any
    weights: Weights = field(default_factory=Weights)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    sharding: Sharding = field(default_factory=Sharding)
    baseline: bool = False


AUTO, NAME = "auto", "config.json"
# What a run leaves behind beside its checkpoints.
RESULTS = ("summary.json", "model.safetensors", "damaged")
CHOICES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "model": ("vit", MODELS),
    "data": ("image_folder", SOURCES),
    "task": ("multiclass", TASKS),
    "strategy": ("full", STRATEGIES),
}

# Sections that the kind of input declares, which is the one that the model reads.
OF_INPUT: dict[str, Callable[[Input], type]] = {
    "preprocess": lambda kind: kind.Changes,
    "augment": lambda kind: kind.Augment,
}

# What every saved section `weights` has, whenever it was saved.
SAVED_BEFORE = {"head", "label_map", "position_embedding", "channels", "sha256", "cache_dir"}

# Settings that may differ on resume: they change how fast a run goes, what it prints, when it gives up, and
# (devices, mesh and rules) the order in which float32 sums are added.
RESUMABLE = (
    "inputs.threads",
    "inputs.workers",
    "inputs.prefetch",
    "inputs.prefetch_bytes",
    "inputs.cache_bytes",
    "inputs.store_bytes",
    "inputs.device_share",
    "inputs.features_bytes",
    "train.log_every",
    "train.steps_per_dispatch",
    *("train.skip_nonfinite", "train.hang_seconds", "train.mirror"),
    "weights.cache_dir",
    *("sharding.devices", "sharding.mesh", "sharding.rules"),
)


# What a difference of is told first: other settings follow from it.
TOLD_FIRST = (
    "model.weights:",
    "model.name:",
    "data.path:",
    "strategy.name:",
    "train.epochs:",
    "train.steps:",
)

# Settings that are paths, or may be: what is there is kept as an absolute one.
PATHS = (
    "data.path",
    "data.target",
    "data.unlabelled",
    "model.weights",
    "strategy.teacher",
    "weights.tokenizer",
    "preprocess.tokenizer",
)


def read(spec: str, overrides: Sequence[tuple[str, str]] = (), folder: Path | None = None) -> Config:
    """Return the configuration of a file (such as "configs/vit_ft.py:ti16") with overrides applied.

    Model "auto" is the one its weights are of: they are fetched and looked at, unless the run folder says
    what they were when it began. Data without a name, or of name "auto", is what its path holds.

    Overrides are (dotted name, text) pairs such as ("optim.learning_rate", "1e-3"), converted by the field's
    type.

    Raises:
        UserError: the file cannot be read, or a key, a value or a type does not fit.
    """
    return of_values(config_file.read(spec), overrides, folder)


def of_values(
    values: dict[str, Any], overrides: Sequence[tuple[str, str]] = (), folder: Path | None = None
) -> Config:
    """Return the configuration of a recipe's values, settled as `read` settles those of a file."""
    return from_dict(_with_told_data(_recognised(_overridden(values, overrides), folder)))


def from_dict(values: Mapping[str, Any]) -> Config:
    """Return the configuration from nested plain values, such as `to_dict` gave and JSON brought back."""
    values, known = _renamed(values), {each.name for each in fields(Config)}
    for key in values:
        if key not in known:
            raise UserError(f"unknown config section {shown(key)}; nearest: {nearest(str(key), known)}")
    sections: dict[str, Any] = {}
    for each in fields(Config):
        given = values.get(each.name, {})
        if each.name in CHOICES:
            sections[each.name] = _choice(each.name, given)
        elif each.name in OF_INPUT:
            section = OF_INPUT[each.name](input_of(sections["model"]))
            sections[each.name] = reading.section(section, given, each.name)
        elif is_dataclass(each.type):
            sections[each.name] = reading.section(typing.cast(type, each.type), given, each.name)
        elif each.name in values:
            sections[each.name] = reading.convert(given, each.type, each.name)
    return Config(**sections)


def saved(folder: Path) -> dict[str, Any]:
    """Return the settings in a run folder's config.json as they stand.

    Raises:
        UserError: it holds something else.
    """
    return files.read_record(folder / NAME).values


def has_begun(folder: Path) -> bool:
    """Return whether a run made a step in a folder: before that its config.json claims nothing."""
    checkpoints, metrics = folder / "checkpoints", folder / "metrics.jsonl"
    is_saved = any((folder / name).exists() for name in RESULTS)
    has_steps = metrics.is_file() and metrics.stat().st_size > 0
    return is_saved or has_steps or (checkpoints.is_dir() and any(checkpoints.iterdir()))


def of_folder(folder: Path) -> Config:
    """Return the configuration of a run folder.

    Raises:
        UserError: its config.json says none.
    """
    record = files.read_record(folder / NAME)
    try:
        return from_dict(record.values)
    except (UserError, TypeError, OverflowError, RecursionError) as error:
        raise record.wrong(str(error)) from error


def _renamed(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of a run folder that was saved before, as they are written now.

    Before there was `weights.entry`, False and 0 of some settings of a model meant "as the size has it". When
    `inputs` was called `input`, 0 and "" in `preprocess` meant "as the weights say". `model.remat` was true
    or false.
    """
    weights, model = values.get("weights"), values.get("model")
    if isinstance(model, Mapping):
        model = rematerialise.as_now_written(model)
        values = {**values, "model": model}
    if isinstance(weights, Mapping) and isinstance(model, Mapping) and weights.keys() >= SAVED_BEFORE:
        values = values if "entry" in weights else {**values, "model": layers.as_now_written(model)}
    if "input" not in values:
        return values
    found = {("inputs" if name == "input" else name): value for name, value in values.items()}
    given = found.get("preprocess", {})
    changes = {name: value for name, value in given.items() if value} if isinstance(given, Mapping) else given
    return {**found, "preprocess": changes}


def input_of(model: Any) -> Input:
    """Return the kind of input that a model of these settings reads."""
    return INPUTS[MODELS[model.name].input]


def to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as nested plain values, all defaults included."""
    return asdict(config)


def with_overrides(config: Config, overrides: Sequence[tuple[str, str]]) -> Config:
    """Return the configuration with (dotted name, text) pairs applied, as `read` does."""
    values = to_dict(config)
    return from_dict(_overridden(values, overrides))


def weights_of(overrides: Sequence[tuple[str, str]]) -> Weights:
    """Return the section `weights` of overrides, to open weights by before there is a whole configuration."""
    values = _overridden({}, [each for each in overrides if each[0].startswith("weights.")])
    return reading.section(Weights, values.get("weights", {}), "weights")


def kept(config: Config) -> dict[str, Any]:
    """Return the configuration as a run folder keeps it: its paths hold from every working directory."""
    values = to_dict(config)
    for name in PATHS:
        section, _, key = name.partition(".")
        path = values[section].get(key, "")
        if path and os.path.exists(path):
            values[section][key] = os.path.abspath(path)
    return values


def conflicts(new: Config, saved: Mapping[str, Any]) -> list[str]:
    """Return "name: old → new" for each setting whose change would make a resumed run another run.

    Settings that came after a run was saved count at their defaults: what it did without them.
    """
    with suppress(UserError):  # of settings that are no more: they are named as they stand
        saved = to_dict(from_dict(saved))
    return sorted(_differences(to_dict(new), saved), key=lambda each: not each.startswith(TOLD_FIRST))


def _differences(new: Mapping[str, Any], old: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted(new.keys() | old.keys()):
        name, ours, theirs = f"{prefix}{key}", new.get(key), old.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found += _differences(ours, theirs, f"{name}.")
        elif (
            _plain(ours) != _plain(theirs)
            and name not in RESUMABLE
            and not _is_one_path(name, ours, theirs)
            and not _is_one_dtype(name, ours, theirs)
        ):
            found.append(f"{name}: {shown(theirs)} -> {shown(ours)}")
    return found


def _is_one_path(name: str, ours: Any, theirs: Any) -> bool:
    are_paths = name in PATHS and isinstance(ours, str) and isinstance(theirs, str) and ours and theirs
    return bool(are_paths) and os.path.abspath(ours) == os.path.abspath(theirs)


def _is_one_dtype(name: str, ours: Any, theirs: Any) -> bool:
    """Return whether both are the dtype that the model computes in here: a run once said float32 for auto."""
    known = (layers.AUTO, *layers.DTYPES)
    if name != "model.dtype" or ours not in known or theirs not in known:
        return False
    return layers.compute_dtype(ours) == layers.compute_dtype(theirs)


def text(config: Config) -> str:
    """Return the resolved configuration as one line a section, for people."""
    lines = []
    for name, section in to_dict(config).items():
        items = section.items() if isinstance(section, dict) else ()
        lines.append(f"{name}: {', '.join(f'{key}={value!r}' for key, value in items) or section}")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def repeated(overrides: Sequence[tuple[str, str]]) -> list[str]:
    """Return a line for each setting that is given more than once with different values: the last counts."""
    given: dict[str, list[str]] = {}
    for name, value in overrides:
        given.setdefault(name, []).append(value)
    return [
        f"--config.{reading.cut(name)} is given {len(values)} times: the last, {shown(values[-1])}, counts"
        for name, values in given.items()
        if len(set(values)) > 1
    ]


def without_resumable(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings that decide what a run is: all but `RESUMABLE`."""
    return {
        key: without_resumable(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in values.items()
        if f"{prefix}{key}" not in RESUMABLE
    }


def _overridden(values: dict[str, Any], overrides: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the values with the overrides; another kind drops what the file set for its own kind."""
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for section, (default, kinds) in CHOICES.items():
        chosen, given = dict(overrides).get(f"{section}.name"), values.get(section)
        is_other = isinstance(given, dict) and chosen in kinds and chosen != given.get("name", default)
        if is_other and chosen is not None and isinstance(given, dict):
            known = {each.name for each in fields(kinds[chosen].Config)}
            values[section] = {key: value for key, value in given.items() if key in known}
    for name, value in overrides:
        _override(values, name, value)
    return _at_home(values)


def _at_home(values: Any) -> Any:
    """Return the values with `~` in front of any text as the home folder it means."""
    if isinstance(values, Mapping):
        return {key: _at_home(value) for key, value in values.items()}
    return files.expanded(values) if isinstance(values, str) else values


def _recognised(values: Mapping[str, Any], folder: Path | None) -> Mapping[str, Any]:
    """Return the values with model "auto" replaced by the family and settings that its weights are of."""
    model = values.get("model")
    if not isinstance(model, Mapping) or model.get("name") != AUTO:
        return values
    spec = str(model.get("weights", NO_WEIGHTS))
    if spec == NO_WEIGHTS:
        raise UserError(
            f"model.name is {AUTO!r} and model.weights {spec!r}; expected weights to tell the family from, "
            f"or a name: {', '.join(MODELS)}"
        )
    if folder is not None and (begun := _begun_with(folder, spec)) is not None:
        return {**values, "model": {**begun, **model, "name": begun["name"]}}
    found = recognise(spec, reading.section(Weights, values.get("weights", {}), "weights"))
    return {**values, "model": {**found.config_fields, **model, "name": found.family}}


def _with_told_data(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values with data of no name, or of name "auto", given the name of what its path holds.

    A path that is not there is refused when it is opened: some recipes are read without their data.
    """
    data = values.get("data", {})
    if not isinstance(data, Mapping) or data.get("name", AUTO) != AUTO:
        return values
    kind = INPUTS[MODELS[_choice("model", values.get("model", {})).name].input]
    return {**values, "data": {**data, "name": tell.name_of(str(data.get("path", "")), kind)}}


def _begun_with(folder: Path, spec: str) -> dict[str, Any] | None:
    """Return the model's settings in a run folder that began with these weights."""
    if not (folder / NAME).is_file() or not has_begun(folder):
        return None
    try:
        record = files.read_record(folder / NAME)
        model = files.Record(record.path, _renamed(record.values).get("model"), "model")
        model.get("name", files.TEXT)
        began = model.get("weights", files.TEXT)
        return model.values if began == spec or _is_one_path("model.weights", began, spec) else None
    except UserError:
        return None  # a damaged folder is refused when it is opened


def _override(values: dict[str, Any], name: str, value: str) -> None:
    *parents, last = name.split(".")
    node = values
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"--config.{reading.cut(name)}: {shown(parent)} is a value, not a section")
    node[last] = value


def _choice(name: str, given: Any) -> Any:
    default, known = CHOICES[name]
    if not isinstance(given, Mapping):
        raise UserError(
            f"config.{name} is {shown(given)}; expected a section with a name, such as {name}.name={default}"
        )
    chosen = given.get("name", default)
    if not isinstance(chosen, str) or chosen not in known:
        nearby = nearest(chosen if isinstance(chosen, str) else default, known)
        raise UserError(f"unknown {name}.name {shown(chosen)}; nearest: {nearby}")
    return reading.section(known[chosen].Config, {**given, "name": chosen}, name)
