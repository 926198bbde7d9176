"""Runs that are fused: what each of them is, whether they fit together, and what measures the candidates."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jtl import predictor, tree
from jtl.data import Source, preflight
from jtl.data.files import unlabelled
from jtl.errors import UserError, shown
from jtl.metrics import Summary
from jtl.models import MODELS
from jtl.predictor import Predictor
from jtl.tasks import TASKS, LabelStats, TaskKind
from jtl.training import build, config, evaluate, sharding
from jtl.training.config import Config
from jtl.training.step import Batch
from jtl.verbs.fuse import fusion
from jtl.weights.contract import TensorFile
from jtl.weights.open import open_path

Variables = Mapping[str, Any]
# What may differ between runs of one model: where they started, and what acts in training alone.
FREE_FIELDS = (
    "size",
    "weights",
    "dtype",
    "remat",
    "attention",
    "dropout",
    "head_dropout",
    "drop_path",
    "norm_momentum",
)
# A fused model is the runs' own: settings that would make it another are not for this verb.
CHANGEABLE = ("data.", "inputs.", "sharding.", "train.monitor")
NOTHING = "nothing"
TRAINING, MOMENTS = "train", "statistics"


class Member(NamedTuple):
    """One run: its folder, its settings as it was trained, how it is built, and its open weights."""

    folder: str
    settings: Config
    found: predictor.Trained
    file: TensorFile

    @property
    def stats(self) -> LabelStats:
        """What it knows of its labels."""
        return self.found.stats

    @property
    def task_kind(self) -> TaskKind:
        """The kind of its task, which knows of each metric whether more is better."""
        return TASKS[self.settings.task.name]


class Judge(NamedTuple):
    """What measures candidates: a member's model, whose own values are not looked at, and the data.

    `moments_source` names the examples that running statistics are estimated on; with `has_own_moments` the
    user gave them, and all candidates get statistics of those.
    """

    member: Member
    predictor: Predictor
    splits: Mapping[str, Source]
    batches: Mapping[str, Any]
    eval_step: Callable[..., Any]
    moments_step: Callable[..., Any]
    moments_source: str
    has_own_moments: bool

    @property
    def monitor(self) -> str:
        """The metric that candidates are chosen by."""
        return self.member.settings.train.monitor or self.member.task_kind.monitor

    @property
    def is_maximized(self) -> bool:
        """Whether more of the monitor is better."""
        return self.member.task_kind.is_maximized(self.monitor)

    @property
    def eval_splits(self) -> tuple[str, ...]:
        """The splits that nothing was trained on."""
        return tuple(name for name in self.splits if name != TRAINING)


def open_member(folder: str, overrides: Sequence[tuple[str, str]]) -> Member:
    """Open a finished run.

    Raises:
        UserError: the folder is none, or an override is of another setting than the `CHANGEABLE`.
    """
    for name, _ in overrides:
        if not name.startswith(CHANGEABLE):
            raise UserError(
                f"--config.{name} is given, but what is fused stays as it was trained; jtl fuse takes "
                f"settings of {', '.join(each.rstrip('.') for each in CHANGEABLE)}"
            )
    found = predictor.of_run(folder)
    own = config.of_folder(Path(folder))
    found = found._replace(settings=config.with_overrides(found.settings, overrides))
    return Member(folder, config.with_overrides(own, overrides), found, open_path(Path(folder)))


def variables(member: Member) -> tree.Tree:
    """Read a run's values: {"params": …, "model_state": …}, float32.

    Raises:
        UserError: some are not finite.
    """
    flat = {name: np.asarray(each.read(), np.float32) for name, each in member.file.tensors.items()}
    for name, leaf in flat.items():
        if not np.isfinite(leaf).all():
            raise UserError(f"{name!r} of run {member.folder!r} is not finite; leave this run out")
    return _whole(tree.unflatten(flat))


def check_alike(members: Sequence[Member], *, is_one_model: bool) -> None:
    """Check that all members tell the same classes apart and, for `is_one_model`, are of the same shape.

    Raises:
        UserError: the first difference there is.
    """
    first = members[0]
    expected = _facts(first, is_one_model=is_one_model)
    for other in members[1:]:
        found = _facts(other, is_one_model=is_one_model)
        for fact in [*expected, *(name for name in found if name not in expected)]:
            ours, theirs = expected.get(fact, NOTHING), found.get(fact, NOTHING)
            if ours != theirs:
                needed = "one model and the same classes" if is_one_model else "the same input and classes"
                other_way = "; --method ensemble takes different models" if is_one_model else ""
                raise UserError(
                    f"run {other.folder!r} has {fact} {shown(theirs)}, run {first.folder!r} {shown(ours)}; "
                    f"expected runs of {needed} in the same order: leave one out{other_way}"
                )


def differing_notes(members: Sequence[Member], *, is_one_model: bool) -> list[str]:
    """Return what may make a fusion worse, though it does not forbid it: other starts, other data."""
    first = members[0]
    unit = config.input_of(first.settings.model).unit
    notes = []
    for other in members[1:]:
        starts = [each.settings.model.weights for each in (first, other)]
        if is_one_model and starts[0] != starts[1]:
            notes.append(
                f"{other.folder} started from {starts[1]}, {first.folder} from {starts[0]}: the mean of runs "
                f"from different weights is seldom a good model"
            )
        data = [asdict(each.settings.data) for each in (first, other)]
        differing = [name for name in data[0] if data[0][name] != data[1].get(name)]
        if differing:
            notes.append(
                f"{other.folder} was trained with another data.{differing[0]} than {first.folder}: where its "
                f"training {unit} are among the validation {unit} of {first.folder}, scores are too good"
            )
    return notes


def make_judge(
    member: Member,
    *,
    batch_size: int,
    statistics_of: str = "",
    beside: "Judge | None" = None,
) -> Judge:
    """Build a member's model and open its data; `beside` another judge, with that one's data and devices.

    Raises:
        UserError: the data cannot be had, or `statistics_of` has no use or no examples.
    """
    splits = _readable_splits(member) if beside is None else beside.splits
    model = predictor.open(member.found)
    if statistics_of and not model.values["model_state"]:
        raise UserError(
            f"--statistics-of (AdaBN) needs BatchNorm: {member.folder!r} is of family "
            f"{model.settings.model.name!r}, which keeps no running statistics; leave it out"
        )
    sources = dict(splits)
    if statistics_of:
        source = unlabelled((statistics_of,), model.input, statistics_of)
        checked = preflight.inspect({MOMENTS: source}, model.settings.data, model.input)
        model, lines = predictor.fitted(model, checked.facts)
        say(*checked.lines, *lines)
        sources |= checked.splits
    if beside is not None:
        model = model._replace(mesh=beside.predictor.mesh)
    return Judge(
        member=member,
        predictor=model._replace(values={}),
        splits=splits,
        batches={
            name: predictor.batches(model, source, batch_size, is_read_again=True)
            for name, source in sources.items()
        },
        eval_step=predictor.make_eval_step(model),
        moments_step=_moments_step(model),
        moments_source=MOMENTS if statistics_of else TRAINING,
        has_own_moments=bool(statistics_of),
    )


def _readable_splits(member: Member) -> dict[str, Source]:
    """Open a member's data and say what is in it, without what cannot be read."""
    settings = member.found.settings
    opened = build.open_splits(settings, member.stats)
    checked = preflight.inspect(opened, settings.data, config.input_of(settings.model))
    say(*checked.lines)
    return checked.splits


def score(judge: Judge, candidate: Variables, split: str) -> Summary:
    """Return the task's metrics of a candidate on a split."""
    task = judge.predictor.task
    assert task is not None, "what is fused has a task"
    return evaluate.measure(
        judge.eval_step,
        predictor.placed(candidate, judge.predictor.mesh),
        judge.batches[split],
        mesh=judge.predictor.mesh,
        task=task,
        num_examples=len(judge.splits[split]),
    )


def with_statistics(judge: Judge, candidate: Variables, sources: Sequence[Variables]) -> Variables:
    """Return the candidate with running statistics of its own, where it has any and needs them.

    The mean of statistics is not the statistics of the mean (Izmailov et al. 2018, sec. 3.2). A candidate
    whose backbone is that of one of its `sources` bit for bit keeps that one's, unless the user gave
    examples (AdaBN, Li et al. 2017).
    """
    candidate = _whole(candidate)
    own = _backbone(judge, candidate)
    is_known = any(fusion.is_same(own, _backbone(judge, source)) for source in sources)
    if not candidate["model_state"] or (is_known and not judge.has_own_moments):
        return candidate
    return {**candidate, "model_state": statistics(judge, candidate)}


def statistics(judge: Judge, candidate: Variables) -> tree.Tree:
    """Return mean and variance of every normalisation layer's input over all examples of one pass.

    They come in evaluation's transform; each batch is normalised by its own moments, as in training, and
    the batches' moments are pooled exactly, by their numbers of examples: no momentum, no padding counts.
    """
    values = predictor.placed(candidate, judge.predictor.mesh)

    def begin(batch: Batch) -> Any:
        on_device = sharding.put_batch(evaluate.fields_of(batch), judge.predictor.mesh)
        return judge.moments_step(values, on_device)

    pooled: fusion.Moments | None = None
    for batch, measured in evaluate.ahead(begin, judge.batches[judge.moments_source]):
        found = fusion.moments(int(batch["mask"].sum()), jax.device_get(measured))
        pooled = found if pooled is None else fusion.pool(pooled, found)
    assert pooled is not None, "statistics of no batch"
    made = fusion.as_statistics(pooled)
    assert tree.flatten(made).keys() == tree.flatten(candidate["model_state"]).keys()
    return made


def _moments_step(model: Predictor) -> Callable[..., Any]:
    @jax.jit
    def moments(values: Variables, batch: Any) -> Any:
        inputs = model.input.normalise(batch["inputs"], model.preprocess)
        return model.model.moments(values["params"], values["model_state"], inputs, batch["mask"])

    return moments


def _whole(values: Variables) -> tree.Tree:
    """Return the values with a model state, which trees made of leaves lack where there is none."""
    return {"params": {}, "model_state": {}, **values}


def _backbone(judge: Judge, candidate: Variables) -> dict[str, Any]:
    """Return the leaves that running statistics depend on, and the statistics."""
    heads = tuple(f"params/{prefix}/" for prefix in judge.predictor.model.layers[-1])
    return {name: leaf for name, leaf in tree.flatten(candidate).items() if not name.startswith(heads)}


def _facts(member: Member, *, is_one_model: bool) -> dict[str, Any]:
    """Return what must be the same, by name, in the order in which people should hear of it."""
    settings, stats = member.found.settings, member.stats
    facts: dict[str, Any] = {"input": MODELS[settings.model.name].input, "task.name": settings.task.name}
    facts["number of classes"] = len(stats.label_names)
    facts |= {f"class {index}": name for index, name in enumerate(stats.label_names)}
    facts |= {"label mean": stats.mean, "label deviation": stats.std}
    if is_one_model:
        model = MODELS[settings.model.name].resolve(settings.model)
        facts["model.name"] = settings.model.name
        facts |= {f"model.{name}": each for name, each in asdict(model).items() if name not in FREE_FIELDS}
        assert member.file.preprocess is not None, "a run folder says its pre-processing"
        # Files that travel are each run's own: what is in them counts, not where they lie.
        preprocess = config.input_of(settings.model).placed(member.file.preprocess, Path())
        facts |= {f"preprocess.{name}": each for name, each in asdict(preprocess).items()}
        facts |= {f"{name} of shape": tuple(each.shape) for name, each in member.file.tensors.items()}
    return facts


def say(*lines: str) -> None:
    """Write lines for people."""
    for line in lines:
        sys.stderr.write(f"{line}\n")
