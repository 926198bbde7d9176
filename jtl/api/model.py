"""A model in Python: `jtl.load` opens it; it predicts, gives features, explains itself and is measured.

Each does what the verb of that name does, by the same code.
"""

import os
import sys
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from jtl.api import process
from jtl.errors import UserError

if TYPE_CHECKING:
    import numpy

    import jtl.api.records
    import jtl.data
    import jtl.predictor

BATCH_SIZE = 64
OWN = "pre_head"
# What an artefact, a run and weights are called by the verbs that open them.
ARTEFACT, RUN, WEIGHTS = "artefact", "run_folder", "weights"


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is trained already, on the devices: what `jtl.load` and `jtl.finetune` return.

    `source` is where it came from, by the argument that verbs know it by, and `classes` the names that were
    given to it (none: its own), `overrides` the settings. `predictor` is what all verbs stand on.
    """

    predictor: "jtl.predictor.Predictor"
    source: tuple[str, str]
    classes: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    steps: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes, in the order of the outputs; none of a model that predicts numbers or has no head."""
        return self.predictor.stats.label_names

    @property
    def folder(self) -> Path | None:
        """The run folder, with its report.html; None of weights and artefacts."""
        kind, spec = self.source
        return Path(spec) if kind == RUN else None

    @property
    def summary(self) -> dict[str, Any]:
        """What the run's summary.json says: "best" and "final" metrics, "seconds", "weights", …

        Raises:
            ValueError: the model is of no run.
        """
        from jtl.report import summary

        if self.folder is None:
            raise UserError(f"{self.source[1]!r} is no run folder, and has no summary")
        return summary.read(self.folder / "summary.json")

    def predict(
        self, inputs: Any, *, batch_size: int = BATCH_SIZE, marks_unreadable: bool = False, **settings: Any
    ) -> "jtl.api.records.Predictions":
        """Predict one example or several, as `jtl predict` does.

        For a model of pictures an example is a path (a file, a folder of files, a table or an archive; text
        or `Path`), the bytes of an image file, a Pillow image, or pixels uint8 [height, width(, channels)] as
        they are in the file, or a batch of them with one axis more. For a model of texts it is a text, a
        tuple of two texts, or a `Path`. Lists may mix them. The pre-processing is the model's own.
        `settings` are of the section `data`, to read tables by: `data={"text_column": "review"}`.

        Raises:
            ValueError: the model has no head, or an example is none or cannot be read; with
                `marks_unreadable` the latter is told in the record's `fault` instead.
        """
        import numpy as np

        from jtl import predictor
        from jtl.api import records
        from jtl.verbs import given

        self._check_head()
        opened, sources = self._opened(inputs, settings)
        step = self._step((Model.predict, opened.preprocess), lambda: predictor.make_predict_step(opened))
        names, values, faults = [], [], []
        for source, row, found, fault in given.predicted(
            opened, step, sources, _fitting(sources, batch_size)
        ):
            if fault and not marks_unreadable:
                raise UserError(fault)
            names.append(records.shown_name(given.named(source, row)))
            values.append(np.full_like(found, np.nan) if fault else found)
            faults.append(fault)
        return records.Predictions(tuple(names), self.label_names, np.stack(values), tuple(faults))

    @overload
    def features(
        self,
        inputs: Any,
        layers: str = OWN,
        *,
        pool: str = "mean",
        batch_size: int = BATCH_SIZE,
        **settings: Any,
    ) -> "numpy.ndarray": ...

    @overload
    def features(
        self,
        inputs: Any,
        layers: Sequence[str],
        *,
        pool: str = "mean",
        batch_size: int = BATCH_SIZE,
        **settings: Any,
    ) -> "dict[str, numpy.ndarray]": ...

    def features(
        self,
        inputs: Any,
        layers: str | Sequence[str] = OWN,
        *,
        pool: str = "mean",
        batch_size: int = BATCH_SIZE,
        **settings: Any,
    ) -> "numpy.ndarray | dict[str, numpy.ndarray]":
        """Return a layer's output for every example, float32 [examples, dim]; of several layers by name.

        `inputs` and `settings` are as `predict` takes them. Layers are "pre_head", "block0"…, "stage1"…;
        `pool` is "mean", "cls" or "cls_mean" of tokens, or "none" for whole maps, [examples, …].

        Raises:
            ValueError: there is no such layer, or an example is none or cannot be read.
        """
        import numpy as np

        from jtl.verbs import features as verb

        names = (layers,) if isinstance(layers, str) else tuple(layers)
        opened, sources = self._opened(inputs, settings)
        verb.check_pool(pool)
        verb.check_layers(opened, names, pool)
        step = self._step(
            (Model.features, opened.preprocess, names, pool), lambda: verb.make_step(opened, names, pool)
        )
        size = _fitting(sources, batch_size)
        tables = [verb.extract(opened, step, source, size) for source in sources]
        found = {name: np.concatenate([table[name] for table in tables]) for name in names}
        return found[layers] if isinstance(layers, str) else found

    def explain(
        self,
        inputs: Any,
        *,
        class_name: str = "",
        method: str = "",
        batch_size: int = BATCH_SIZE,
        **settings: Any,
    ) -> "list[jtl.api.records.Explanation]":
        """Return what of each example a class hangs on, as `jtl explain` does; a notebook shows it.

        `inputs` and `settings` are as `predict` takes them. Without `class_name` it is each example's
        first class, without `method` the first that the model offers.

        Raises:
            ValueError: the model has no head or offers no such explanation, there is no such class, or an
                example is none or cannot be read.
        """
        from jtl.api import records
        from jtl.explain import examples
        from jtl.verbs import given

        self._check_head()
        if self.source[0] == ARTEFACT:
            raise UserError(f"{self.source[1]!r} is a program, which cannot be looked into; load the run")
        opened, sources = self._opened(inputs, settings)
        chosen, output = examples.chosen(opened, method), examples.output_of(opened, class_name)
        step = self._step(
            (Model.explain, opened.preprocess, chosen, output),
            lambda: examples.make_step(opened, chosen, output),
        )
        found = []
        for source in sources:
            for each in examples.explained(opened, step, source, _fitting(sources, batch_size)):
                if each.fault:
                    raise UserError(each.fault)
                name = records.shown_name(given.named(source, each.row))
                found.append(records.explanation(name, opened, each))
        return found

    def evaluate(
        self,
        data: str | os.PathLike[str] = "",
        *,
        split: str = "",
        batch_size: int = BATCH_SIZE,
        **settings: Any,
    ) -> dict[str, Any]:
        """Return what `jtl evaluate --json` prints: numbers with intervals, per class, and the confusions.

        Without `data` it is the run's own test split, else its validation split. The model is opened anew.

        Raises:
            ValueError: model, data and labels do not fit together.
        """
        from jtl.verbs import evaluate

        kind, spec = self.source
        if kind == ARTEFACT:
            raise UserError(f"{spec!r} is an artefact, whose data is not known; evaluate its run")
        return evaluate.run(
            run_folder=spec if kind == RUN else "",
            weights=spec if kind == WEIGHTS else "",
            classes=self.classes,
            data=os.fspath(data),
            split=split,
            batch_size=batch_size,
            overrides=[*self.overrides, *process.overrides(settings)],
        )

    def __repr__(self) -> str:
        names = self.label_names
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        classes = f"{len(names)} classes ({shown})" if names else "no classes"
        model, parts = self.predictor.settings.model, self.predictor
        reads = parts.input.described(parts.preprocess)
        return f"jtl.Model of {self.source[1]}: {model.name} {model.size}, {classes}; {reads}"

    def _check_head(self) -> None:
        from jtl.verbs import given

        given.check_predicts(self.predictor.settings, self.source[1])
        if self.predictor.task is None:
            raise UserError(
                f"{self.source[1]!r} has no head, and predicts nothing; fine-tune it, ask for features, "
                f"or give CLIP or SigLIP the names of classes: jtl.load(…, classes=[…])"
            )

    def _opened(
        self, inputs: Any, settings: dict[str, Any]
    ) -> "tuple[jtl.predictor.Predictor, list[jtl.data.Source]]":
        """Return the model reading the inputs, and these as sources; say what is lost in reading them."""
        from jtl.api import given as examples
        from jtl.verbs import given

        overrides = process.overrides(settings)
        others = [name for name, _ in overrides if not name.startswith("data.")]
        if others:
            raise UserError(f"{others[0]} is given, but the model is opened already; give it to jtl.load")
        found = self.predictor.settings
        listed = examples.listed(found, inputs)
        chosen = given.reading(found, examples.paths(found, listed), overrides)
        sources = examples.sources(chosen, listed)
        opened, lines = given.fitted(self.predictor, sources)
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        return opened, sources

    def _step(self, key: Any, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """Return what was compiled under a key, made once."""
        if key not in self.steps:
            self.steps[key] = make()
        return self.steps[key]


def load(source: str | os.PathLike[str], *, classes: str | Sequence[str] = (), **settings: Any) -> Model:
    """Open a run folder, pretrained weights, or a folder that `jtl export` wrote.

    `source` is what `--run`, `--weights` or `--artefact` take: weights may be a name of `jtl weights list`,
    a file, or `hf://`, `https://`, `gs://`. `classes` name the outputs of weights, or for CLIP and SigLIP the
    classes to tell apart. Settings are named by section, `preprocess={"background": 255}`, or as on the
    command line.

    Raises:
        ValueError: it is none of these, is damaged or unfinished, or does not fit the settings.
    """
    process.prepare()
    from jtl import predictor
    from jtl.explain import examples
    from jtl.training import config
    from jtl.verbs import given

    spec, overrides = os.fspath(source), process.overrides(settings)
    names = given.class_names(classes) if isinstance(classes, str) else tuple(classes)
    kind = _kind_of(Path(spec))
    if kind == ARTEFACT:
        return Model(given.of_artefact(spec, names, overrides), (kind, spec))
    if kind == RUN:
        found = given.of_model(spec, "", names)
    else:
        found = given.of_weights(spec, names, overrides, needs_head=False)
    found = found._replace(settings=config.with_overrides(found.settings, overrides))
    has_head = kind == RUN or bool(found.stats.label_names)
    opened = examples.open_model(found) if has_head else predictor.open(found, has_head=False)
    sys.stderr.write(predictor.described(opened) + "\n")
    return Model(opened, (kind, spec), names, tuple(overrides))


def _kind_of(path: Path) -> str:
    """Return which argument of a verb a source is."""
    from jtl.export.contract import RECORD_NAME
    from jtl.weights.run_folder import META_NAME

    if (path / RECORD_NAME).is_file():
        return ARTEFACT
    return RUN if (path / META_NAME).is_file() else WEIGHTS


def _fitting(sources: Sequence[Sized], batch_size: int) -> int:
    """Return a batch that is not much larger than what it is to hold; of few sizes, as each is compiled.

    >>> _fitting([range(5)], 64), _fitting([range(500)], 64)
    (8, 64)
    """
    longest = max(len(source) for source in sources)
    return min(batch_size, 1 << (longest - 1).bit_length())
