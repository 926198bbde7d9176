"""Examples explained in batches: relevance of the parts of each input, for one class or the first."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jtl import predictor as predictors
from jtl import runtime
from jtl.data import Source
from jtl.errors import UserError, nearest
from jtl.explain import METHODS
from jtl.inputs import Inputs
from jtl.inputs import tokens as token_inputs
from jtl.models import MODELS, rematerialise
from jtl.predictor import Predictor, Trained, Values
from jtl.training import step

TOP = -1
# (values, inputs) → predictions [batch, outputs], the classes explained, their relevance.
Step = Callable[[Values, Inputs], tuple[Any, Any, Any]]


class Explained(NamedTuple):
    """One example: its row in its source, its inputs as the model is given them, and what came of it.

    `relevance` is [rows, columns] of a picture or [tokens] of a text; `fault` says why it could not be read.
    """

    row: int
    inputs: Inputs
    predictions: np.ndarray
    output: int
    relevance: np.ndarray
    fault: str = ""


def open_model(trained: Trained) -> Predictor:
    """Build the model as explanations look at it: nothing is recomputed, so that every layer is seen once."""
    settings = trained.settings
    return predictors.open(
        trained._replace(settings=replace(settings, model=replace(settings.model, remat=rematerialise.NONE)))
    )


def chosen(predictor: Predictor, name: str) -> str:
    """Return the method of that name, or with "" the first that the model offers.

    Raises:
        UserError: there is no such method, or the model does not offer it.
    """
    if name and name not in METHODS:
        raise UserError(
            f"--method is {name!r}; expected one of {', '.join(METHODS)}; nearest: {nearest(name, METHODS)}"
        )
    offered = [each for each, method in METHODS.items() if method.is_offered(predictor.model)]
    family = predictor.settings.model.name
    if not offered:
        raise UserError(
            f"a model of family {family!r} with model.features={predictor.settings.model.features!r} offers "
            f"no explanation; expected features of its own last layers"
        )
    if name and name not in offered:
        raise UserError(
            f"--method is {name!r}, which models of family {family!r} do not offer; expected one of "
            f"{', '.join(offered)}"
        )
    return name or offered[0]


def output_of(predictor: Predictor, name: str) -> int:
    """Return the output of a class by its name, or by its index where that is no name; `TOP` for "".

    Raises:
        UserError: there is no such class.
    """
    assert predictor.task is not None, "what is explained has a head"
    names, num_outputs = predictor.stats.label_names, predictor.task.head.num_outputs
    if not name:
        return TOP
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < num_outputs:
        return int(name)
    expected = f"nearest: {nearest(name, names)}" if names else f"expected 0 to {num_outputs - 1}"
    raise UserError(f"--class is {name!r}, which is none of the model's {num_outputs} classes; {expected}")


def make_step(predictor: Predictor, method: str, output: int = TOP) -> Step:
    """Return the compiled explanation of a batch, by a method, of one class or of each example's first."""
    task, kind = predictor.task, MODELS[predictor.settings.model.name].input
    assert task is not None, "what is explained has a head"

    def explain_step(values: Values, inputs: Inputs) -> tuple[Any, Any, Any]:
        preprocess = predictor.preprocess
        given = predictor.input.normalise(inputs, preprocess)
        blank = predictor.input.normalise(BLANK[kind](inputs, preprocess), preprocess)
        logits = step.forward_normalised(predictor, values["params"], values["model_state"], given).logits
        top = jnp.argmax(logits, axis=-1)
        classes = top if output == TOP else jnp.full_like(top, output)
        relevance = METHODS[method].explain(predictor, values, given, blank, classes)
        return task.predictions(logits), classes, relevance

    return jax.jit(explain_step, compiler_options=runtime.options_of_few_runs())


def explained(predictor: Predictor, compiled: Step, source: Source, batch_size: int) -> Iterator[Explained]:
    """Yield the examples of a source, in its order, explained by what `make_step` compiled."""
    batches = predictors.batches(predictor, source, batch_size, marks_unreadable=True)
    for batch, found in predictors.stepped(predictor, compiled, batches):
        predictions, classes, relevance = (np.asarray(each) for each in found)
        for row in np.flatnonzero(batch["mask"]):
            inputs = jax.tree.map(lambda leaf, row=row: leaf[row], batch["inputs"])
            fault = str(batch["fault"][row] or "")
            yield Explained(
                int(batch["id"][row]), inputs, predictions[row], int(classes[row]), relevance[row], fault
            )


def _no_picture(images: Any, preprocess: Any) -> Any:
    del preprocess
    return jnp.zeros_like(images)


def _no_text(inputs: Any, preprocess: Any) -> Any:
    """Return the text with every token of its own hidden, or where the tokenizer has no mask, padding."""
    blank = preprocess.mask_id if preprocess.mask_id >= 0 else preprocess.pad_id
    is_text = token_inputs.hideable(inputs, preprocess)
    return {**inputs, "ids": jnp.where(is_text, blank, inputs["ids"])}


# By kind of input: the inputs with nothing said in them.
BLANK: dict[str, Callable[[Any, Any], Any]] = {"image": _no_picture, "tokens": _no_text}
