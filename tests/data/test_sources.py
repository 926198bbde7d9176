"""Laws every source keeps, whatever its kind."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.data import SOURCES, Labels, Source
from jtl.errors import UserError
from jtl.inputs import INPUTS

KIND_OF = {kind.holds: kind for kind in INPUTS.values()}
every_kind = pytest.mark.parametrize("name", SOURCES)


def keys(source: Source) -> list[bytes]:
    return [source.fingerprint(index) for index in range(len(source))]


def counts(source: Source) -> np.ndarray:
    return np.bincount(source.labels(), minlength=len(source.info.label_names))


def test_importing_the_contract_imports_no_heavy_library() -> None:
    heavy = ("jax", "grain", "pyarrow", "sklearn", "tensorflow_datasets", "tensorflow")
    code = f"import sys, jtl.data; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


@every_kind
def test_an_example_is_what_is_stored_its_label_and_its_position(opened: Any, name: str) -> None:
    for source in opened(name).values():
        labels = source.labels()
        assert labels.dtype == np.int64
        assert labels.shape == (len(source),)
        for index in (0, len(source) // 2, len(source) - 1):
            example = source[index]
            assert set(example) == {"raw", "label", "id"}
            KIND_OF[source.info.holds].check(example["raw"])
            assert example["label"] == labels[index]
            assert example["id"] == index
        assert len(source.info.label_names) == labels.max() + 1


@every_kind
def test_a_position_past_the_end_is_an_index_error(opened: Any, name: str) -> None:
    source = opened(name)["train"]
    with pytest.raises(IndexError):
        source[len(source)]


@every_kind
def test_a_pickled_source_gives_the_same_examples(opened: Any, name: str) -> None:
    source = opened(name)["train"]
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source)
    assert copy.info == source.info
    np.testing.assert_array_equal(copy[1]["raw"], source[1]["raw"])
    np.testing.assert_array_equal(copy.labels(), source.labels())


@every_kind
def test_descriptions_tell_examples_apart(opened: Any, name: str) -> None:
    splits = opened(name)
    described = [source.describe(index) for source in splits.values() for index in range(len(source))]
    assert len(set(described)) == len(described)


@every_kind
def test_splits_are_the_same_where_the_data_is_moved(
    written: Any, opened: Any, name: str, tmp_path: Path
) -> None:
    root, settings = written(name)
    shutil.copytree(root, tmp_path / "moved")
    moved = {key: value.replace(str(root), str(tmp_path / "moved")) for key, value in settings.items()}
    before, after = opened(name), opened(name, **moved)
    assert before.keys() == after.keys() == {"train", "val"}
    for split in before:
        assert keys(before[split]) == keys(after[split])


@every_kind
def test_every_example_is_in_one_split_and_classes_are_split_alike(opened: Any, name: str) -> None:
    whole = opened(name, val_fraction=0.0)
    assert whole.keys() == {"train"}
    splits = opened(name, val_fraction=0.25)
    assert sorted(keys(splits["train"]) + keys(splits["val"])) == sorted(keys(whole["train"]))
    expected = [round(0.25 * count) for count in counts(whole["train"])]
    np.testing.assert_allclose(counts(splits["val"]), expected, atol=1)
    assert counts(splits["val"]).min() >= 1


@every_kind
def test_a_smaller_training_set_is_contained_in_a_larger(opened: Any, name: str) -> None:
    whole = opened(name)
    parts = [opened(name, train_fraction=fraction) for fraction in (0.2, 0.5)]
    assert set(keys(parts[0]["train"])) < set(keys(parts[1]["train"])) < set(keys(whole["train"]))
    few = opened(name, train_per_class=2)
    assert counts(few["train"]).tolist() == [2] * len(few["train"].info.label_names)
    assert (
        set(keys(few["train"]))
        < set(keys(opened(name, train_per_class=3)["train"]))
        < set(keys(whole["train"]))
    )
    for splits in (*parts, few):
        assert keys(splits["val"]) == keys(whole["val"])


@every_kind
def test_given_class_names_fix_the_indices(opened: Any, name: str) -> None:
    source = opened(name, val_fraction=0.0)["train"]
    names = (*reversed(source.info.label_names), "another")
    fixed = opened(name, Labels(names=names), val_fraction=0.0)["train"]
    assert fixed.info.label_names == names
    found = [names[label] for label in fixed.labels()]
    assert found == [source.info.label_names[label] for label in source.labels()]


@every_kind
def test_a_class_that_is_not_among_the_given_names_is_named(opened: Any, name: str) -> None:
    names = opened(name)["train"].info.label_names
    with pytest.raises(UserError, match=f"label .*: .*{names[-1]}"):
        opened(name, Labels(names=names[:-1]))


@every_kind
@pytest.mark.parametrize(
    ("setting", "value"),
    [("val_fraction", 1.0), ("max_unreadable", -1), ("train_per_class", -1), ("train_fraction", 0.0)],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(
    written: Any, name: str, setting: str, value: Any
) -> None:
    with pytest.raises(UserError, match=f"data.{setting} is {value}; expected"):
        SOURCES[name].Config(**written(name)[1], **{setting: value})


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"digits"}))  # those are embedded and take no path
def test_a_missing_path_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="absent"):
        SOURCES[name].open(SOURCES[name].Config(path=str(tmp_path / "absent")), Labels())


def test_both_subset_settings_at_once_are_an_error() -> None:
    with pytest.raises(UserError, match="both set"):
        SOURCES["digits"].Config(train_per_class=2, train_fraction=0.5)
