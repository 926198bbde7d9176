"""What a run leaves in its folder comes back: weights, names of classes, pre-processing, settings."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.inputs import tokens
from jtl.inputs.preprocess import Preprocess
from jtl.models import MODELS
from jtl.weights import FAMILIES, Config
from jtl.weights.recognise import recognise
from jtl.weights.report import RESAMPLED
from jtl.weights.run_folder import META_NAME, UNSET, open_run, write_run_weights
from tests.weights import writing
from tests.weights.test_load import HEAD, assert_equal_leaves, leaves_of, load_into

PREPROCESSED = {"image": Preprocess(image_px=(8, 8), resize_px=9), "tokens": tokens.Preprocess(max_tokens=9)}


def save_run(folder: Path, family: str, leaves: dict[str, np.ndarray], config: Any = None) -> None:
    """Write what a finished run leaves for loading."""
    write_run_weights(folder, *writing.trees_of(leaves))
    meta = {
        "family": family,
        "model": asdict(config or MODELS[family].tiny()),
        UNSET: None,
        "num_outputs": 3,
        "label_names": ["ant", "bee", "cat"],
        "preprocess": asdict(PREPROCESSED[MODELS[family].input]),
    }
    (folder / META_NAME).write_text(json.dumps(meta))


@pytest.mark.parametrize("family", FAMILIES)
def test_run_folder_comes_back_with_names_and_preprocessing(tmp_path: Path, family: str) -> None:
    leaves = writing.leaves_of(family)
    save_run(tmp_path, family, leaves)
    loaded = load_into(str(tmp_path), family)
    assert_equal_leaves(leaves_of(loaded), leaves)
    assert loaded.label_names == ("ant", "bee", "cat")
    assert loaded.preprocess == PREPROCESSED[MODELS[family].input]
    found = recognise(str(tmp_path))
    assert (found.family, found.num_outputs, found.origin) == (family, 3, "jtl")
    assert MODELS[family].Config(**found.config_fields) == MODELS[family].tiny()
    by_name = Config(head="map", label_map={"x": "cat"})
    mapped = load_into(str(tmp_path), family, by_name, num_outputs=1, label_names=("x",))
    np.testing.assert_array_equal(mapped.params["head"]["bias"], leaves[HEAD[1]][2:])


def test_run_saved_before_false_could_be_chosen_is_what_it_was(tmp_path: Path) -> None:
    save_run(tmp_path, "vit", writing.leaves_of("vit"))
    meta = json.loads((tmp_path / META_NAME).read_text())
    meta["model"] |= {"size": "clip_b32", "has_pre_norm": False, "has_patch_bias": True}
    (tmp_path / META_NAME).write_text(json.dumps(meta))
    assert open_run(tmp_path).config_fields["has_pre_norm"] is False
    del meta[UNSET]
    (tmp_path / META_NAME).write_text(json.dumps(meta))
    found = open_run(tmp_path).config_fields
    assert (found["has_pre_norm"], found["has_patch_bias"]) == (None, None)


def test_settings_that_a_runs_size_gives_are_named_by_their_values(tmp_path: Path) -> None:
    config = MODELS["bert"].Config(
        size="bert_tiny", vocabulary=32, num_positions=18, dropout=0.0, attention_dropout=0.0
    )
    save_run(tmp_path, "bert", writing.leaves_of("bert", config), config)
    with pytest.raises(UserError, match=r"\(set model.dim=128, model.mlp_dim=512\); of \d+ tensors"):
        load_into(str(tmp_path), "bert")


def test_run_folders_grid_is_known_where_it_is_not_square(tmp_path: Path) -> None:
    config = replace(MODELS["vit"].tiny(), image_px=(4, 16))
    write_run_weights(tmp_path, *writing.trees_of(writing.leaves_of("vit", config)))
    meta = {"family": "vit", "model": asdict(config), "label_names": [], "preprocess": asdict(Preprocess())}
    (tmp_path / META_NAME).write_text(json.dumps(meta))
    loaded = load_into(str(tmp_path))
    assert [row.note for row in loaded.report.of(RESAMPLED)] == ["1x4 -> 2x2 bicubic"]


def test_run_that_has_not_finished_says_so(tmp_path: Path) -> None:
    (tmp_path / META_NAME).write_text("{}")
    with pytest.raises(UserError, match=r"has no model\.safetensors: it has not finished"):
        load_into(str(tmp_path))
