"""What a report shows beside its examples: what each prediction hangs on, in one pass of a few of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jtl import predictor as predictors
from jtl.data import Source
from jtl.data.contract import IMAGE, TEXT
from jtl.data.subset import Subset
from jtl.explain import METHODS, examples, pictures, texts
from jtl.explain.examples import Explained
from jtl.inputs import thumbnail
from jtl.predictor import Predictor
from jtl.report.gallery import Overlay, Overlays

# Ways that take one pass forward and one back, by preference: integrated gradients take 24 of each.
QUICK = ("grad_cam", "attention_gradient", "gradient_x_input")


def of_run(folder: Path, source: Source, rows: Sequence[int]) -> Overlays:
    """Explain what the model that a run has written says of these rows of a source, in one batch.

    Raises:
        UserError: the run has no weights yet, or they are damaged.
    """
    opened = examples.open_model(predictors.of_run(str(folder)))
    method = next((name for name in QUICK if METHODS[name].is_offered(opened.model)), "")
    if not method:
        family, features = opened.settings.model.name, opened.settings.model.features
        return Overlays("", {}, f"a {family} with model.features={features!r} offers no explanation")
    step = examples.make_step(opened, method)
    chosen = Subset(source, np.asarray(rows, np.int64))
    found = {
        rows[each.row]: OVERLAID[opened.input.holds](opened, each)
        for each in examples.explained(opened, step, chosen, len(rows))
        if not each.fault
    }
    return Overlays(METHODS[method].source, found)


def _picture(opened: Predictor, each: Explained) -> Overlay:
    del opened
    return Overlay(picture=thumbnail.small(pictures.overlaid(np.asarray(each.inputs), each.relevance)))


def _tokens(opened: Predictor, each: Explained) -> Overlay:
    found = texts.pieces(each.inputs, opened.preprocess, each.relevance)
    own = [piece for piece in found if piece.kind == texts.TEXT]
    largest = max((abs(piece.value) for piece in own), default=0.0) or 1.0
    return Overlay(tokens=tuple((piece.text, round(piece.value / largest, 3)) for piece in own))


# By what a model's raw examples are.
OVERLAID: dict[str, Callable[[Predictor, Explained], Overlay]] = {IMAGE: _picture, TEXT: _tokens}
