"""What verbs are given on the command line: a model by name, names of classes, and examples to look at."""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError
from jtl.verbs.contract import Overrides, refuse

if TYPE_CHECKING:
    import numpy

    import jtl.data
    import jtl.inputs
    import jtl.predictor
    import jtl.training.config


def class_names(text: str) -> tuple[str, ...]:
    """Return class names separated by commas, or the lines of the file of that path; none of "".

    >>> class_names("ant, bee"), class_names("")
    (('ant', 'bee'), ())

    Raises:
        UserError: the file is no text.
    """
    if not text:
        return ()
    path = Path(text)
    if "," not in text and not path.is_file():
        raise UserError(f"--classes {text!r} is no file; expected one, with a name a line, or names: a,b,c")
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split(",")
    except UnicodeDecodeError as error:
        raise UserError(f"--classes {text!r} is no text; expected the name of a class a line") from error
    return tuple(name.strip() for name in lines if name.strip())


def of_model(
    run_folder: str, weights: str, names: tuple[str, ...] = (), overrides: Overrides = ()
) -> "jtl.predictor.Trained":
    """Return the model of a run, or of weights, whose outputs are called by `names` if there are any.

    Raises:
        UserError: it cannot be had, or names are given to a run.
    """
    from jtl import predictor

    if run_folder and names:
        raise UserError("--classes names the outputs of --weights; a run has names already: leave it out")
    return predictor.of_run(run_folder) if run_folder else of_weights(weights, names, overrides)


def of_weights(
    weights: str, names: tuple[str, ...] = (), overrides: Overrides = (), *, needs_head: bool = True
) -> "jtl.predictor.Trained":
    """Return the model of weights for people to look at: outputs that have no name are shown by one; say so.

    Unless it `needs_head`, it may be a backbone, which has no classes.

    Raises:
        UserError: as `with_head`.
    """
    from jtl import predictor

    found = with_head(weights, names, overrides, needs_head=needs_head)
    imagenet = predictor.imagenet_names()
    if names or predictor.has_names(found) or not found.stats.label_names:
        return found
    if len(found.stats.label_names) == len(imagenet):
        sys.stderr.write("1000 outputs without names: shown as those of ImageNet-1k\n")
        return predictor.with_names(found, imagenet)
    sys.stderr.write(f"{weights} brings no class names: shown are indices; --classes names them\n")
    return found


def with_head(
    weights: str, names: tuple[str, ...] = (), overrides: Overrides = (), *, needs_head: bool = True
) -> "jtl.predictor.Trained":
    """Return the model of weights, its outputs called by `names` or by what they bring, else by indices.

    Raises:
        UserError: the weights are of no model jtl knows, or have another number of classes.
    """
    from jtl import predictor
    from jtl.training import config

    settings = config.weights_of(overrides)
    found = predictor.of_weights(weights, settings, needs_head=needs_head and not names)
    if names and not found.stats.label_names:
        return predictor.of_classes(weights, names, settings)
    return predictor.with_names(found, names) if names else found


def of_artefact(artefact: str, names: tuple[str, ...], overrides: Overrides) -> "jtl.predictor.Predictor":
    """Return the model of a folder that `jtl export` wrote.

    Raises:
        UserError: it is none, or what it needs to run is missing, or names or other settings are given.
    """
    from jtl.export import artefact as artefacts

    if names:
        raise UserError("--classes is given with --artefact, which names its own classes; leave it out")
    refuse([each for each in overrides if not each[0].startswith("data.")], but=" but data.*")
    return artefacts.open_folder(artefact)


def check_predicts(settings: "jtl.training.config.Config", origin: str) -> None:
    """Raise UserError for a model whose task has no labels that it could predict; `origin` is its run."""
    from jtl.tasks import TASKS
    from jtl.tasks.contract import NO_LABELS

    if TASKS[settings.task.name].label_kind == NO_LABELS:
        raise UserError(
            f"{origin!r} was trained by task {settings.task.name!r}, which has no labels to predict; "
            f"train on labels from there: --config.model.weights={origin}"
        )


def reading(
    settings: "jtl.training.config.Config", paths: Sequence[str], overrides: Overrides
) -> "jtl.training.config.Config":
    """Return the settings that these paths are read by: of the first table or archive, with overrides."""
    from jtl.data import tell
    from jtl.training import build, config

    kind = config.input_of(settings.model)
    sets = [path for path in paths if tell.is_set(path, kind)]
    return config.with_overrides(build.with_data(settings, sets[0]) if sets else settings, overrides)


def sources(
    settings: "jtl.training.config.Config", paths: Sequence[str], texts: Sequence[str] = ()
) -> "list[jtl.data.Source]":
    """Open what is to be looked at: the paths in their order, then the texts.

    The rows of a table, or files of an archive, come split by split.

    Raises:
        UserError: there is nothing, or it is not what the model reads.
    """
    import numpy as np

    from jtl.data import SOURCES, Info, Labels, files, preflight, tell
    from jtl.data.contract import NO_LABELS, TEXT
    from jtl.data.texts import Texts
    from jtl.training import build, config

    kind = config.input_of(settings.model)
    if not paths and not texts:
        raise UserError(f"there is nothing to predict; give files or folders of {kind.unit}")
    _check_endings(kind, paths)
    opened: list[Any] = []
    for is_set, group in itertools.groupby(paths, partial(tell.is_set, kind=kind)):
        if not is_set:
            opened.append(files.unlabelled(group, kind))
            continue
        for path in group:
            is_same = tell.kind_of(path) == settings.data.name
            data = replace((settings if is_same else build.with_data(settings, path)).data, path=path)
            opened += SOURCES[data.name].open(data, Labels(NO_LABELS)).values()
    if texts:
        opened.append(
            Texts(Info("--text", (), TEXT), tuple(texts), None, "--text", np.arange(len(texts)) + 1)
        )
    for source in opened:
        preflight.check_kind(source, kind)
        for note in source.info.notes:
            sys.stderr.write(f"{note}\n")
    return opened


def fitted(
    opened: "jtl.predictor.Predictor", sources: "Sequence[jtl.data.Source]"
) -> "tuple[jtl.predictor.Predictor, list[str]]":
    """Return the model reading the inputs as `jtl evaluate` would, and lines on what is lost in that.

    Inputs that do not fit what it was trained with are told in a line, and those that cannot be read so have
    an error each.
    """
    from jtl import predictor
    from jtl.data import preflight

    facts, lines = preflight.glance(sources, opened.input)
    try:
        opened, more = predictor.fitted(opened, facts)
    except UserError as error:
        more = [str(error)]
    return opened, [*lines, *more]


def predicted(
    opened: "jtl.predictor.Predictor",
    step: Callable[..., Any],
    sources: "Sequence[jtl.data.Source]",
    batch_size: int,
) -> "Iterator[tuple[jtl.data.Source, int, numpy.ndarray, str]]":
    """Yield each example in order: its source, its row there, what `step` gives of it, why it cannot be read.

    `step` is compiled: (values, inputs) → [batch, outputs]. What it gives of an unreadable example means
    nothing.
    """
    import numpy as np

    from jtl import predictor

    for source in sources:
        batches = predictor.batches(opened, source, batch_size, marks_unreadable=True)
        for batch, found in predictor.stepped(opened, step, batches):
            values = np.asarray(found)
            for row in np.flatnonzero(batch["mask"]):
                yield source, int(batch["id"][row]), values[row], str(batch["fault"][row])


def named(source: "jtl.data.Source", index: int) -> dict[str, str]:
    """Return what names an example in a result: its path, or its text and where that stands."""
    return NAMED[source.info.holds](source, index)


def columns(sources: "Sequence[jtl.data.Source]") -> list[str]:
    """Return the columns that name examples of these sources, in the order in which they come."""
    return list(dict.fromkeys(name for source in sources for name in named(source, 0)))


def _check_endings(kind: "jtl.inputs.Input", paths: Sequence[str]) -> None:
    """Raise UserError for a file that ends as the examples of another kind do."""
    from jtl.inputs import INPUTS

    for path in paths:
        for other in INPUTS.values():
            if path.lower().endswith(other.suffixes) and not path.lower().endswith(kind.suffixes):
                raise UserError(
                    f"{path!r} is one of {other.unit}, and the model reads {kind.unit}; give those"
                )


def _path(source: "jtl.data.Source", index: int) -> dict[str, str]:
    return {"path": source.describe(index)}


def _text(source: "jtl.data.Source", index: int) -> dict[str, str]:
    """Return the text, or both of a pair, and where it stands."""
    from jtl.inputs import Unreadable
    from jtl.inputs.raw_text import texts_of

    try:
        texts = texts_of(source[index]["raw"])
    except Unreadable:
        texts = ("",)
    return {**dict(zip(("text", "text_pair"), texts, strict=False)), "source": source.describe(index)}


# What names an example in the result, by what its source holds.
NAMED: dict[str, Callable[[Any, int], dict[str, str]]] = {"image": _path, "text": _text}
