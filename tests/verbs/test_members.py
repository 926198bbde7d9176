"""Runs that do not fit each other: the line names what differs, and both of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models import MODELS
from jtl.models.contract import build as build_model
from jtl.predictor import Trained
from jtl.tasks import TASKS
from jtl.training import config
from jtl.verbs.fuse.members import Member, check_alike
from jtl.weights.contract import TensorFile

VIT = {"name": "vit", "size": "mini", "image_px": 8}


def member(folder: str, names: str = "ab", task: str = "multiclass", **model: Any) -> Member:
    """A finished run of nothing but its description."""
    settings = config.from_dict({"model": {**VIT, **model}, "task": {"name": task}})
    labels = np.eye(len(names)) if task == "multilabel" else np.arange(len(names))
    family = MODELS[settings.model.name]
    preprocess = build_model(family, settings.model, len(names)).preprocess
    stats = TASKS[task].stats(labels, tuple(names))
    file = TensorFile(Path(folder), "", {}, None, preprocess)
    return Member(folder, settings, Trained(settings, stats), file)


@pytest.mark.parametrize(
    ("other", "is_one_model", "message"),
    [
        ({"names": "abc"}, False, "has number of classes 3, run 'first' 2; expected runs of the same"),
        ({"names": "ba"}, False, "has class 0 'b', run 'first' 'a'; .* in the same order: leave one out"),
        ({"task": "multilabel"}, False, "has task.name 'multilabel', run 'first' 'multiclass'"),
        (
            {"image_px": 16},
            True,
            r"has model.image_px \(16, 16\), run 'first' \(8, 8\); expected runs",
        ),
        ({"mlp_dim": 8}, True, "has model.mlp_dim 8, run 'first' 384; .* --method ensemble takes"),
    ],
)
def test_runs_that_differ_are_refused_by_what_differs(
    other: dict[str, Any], is_one_model: bool, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_alike([member("first"), member("second", **other)], is_one_model=is_one_model)


def test_models_of_images_and_of_texts_are_no_ensemble() -> None:
    settings = config.from_dict({"model": {"name": "bert", "size": "bert_tiny"}})
    stats = TASKS["multiclass"].stats(np.arange(2), tuple("ab"))
    texts = Member("texts", settings, Trained(settings, stats), TensorFile(Path("texts"), "", {}))
    with pytest.raises(UserError, match="run 'texts' has input 'tokens', run 'first' 'image'; expected"):
        check_alike([member("first"), texts], is_one_model=False)


def test_models_of_other_sizes_are_an_ensemble() -> None:
    check_alike([member("first"), member("second", image_px=16)], is_one_model=False)
