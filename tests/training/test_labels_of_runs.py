"""How a run read its labels is kept, and holds for every table it meets later."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl import files
from jtl.errors import UserError
from jtl.tasks import LabelStats
from jtl.training import build, config
from jtl.verbs import given
from tests.data.conftest import write_tar

CLASSES = 12


def write(folder: Path, name: str, labels: list[str]) -> str:
    rows = ["path,label"]
    for place, label in enumerate(labels):
        pixels = np.random.default_rng(place).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
        rows.append(f"{place}.png,{label}")
    (folder / name).write_text("\n".join(rows) + "\n")
    return str(folder / name)


def settings(path: str, **data: str) -> config.Config:
    base = config.read(
        "configs/smoke.py", [("data.name", "table"), ("data.path", path), ("data.val_fraction", "0")]
    )
    return replace(base, data=replace(base.data, **data))


def kept(stats: LabelStats) -> LabelStats:
    """Return what a run folder brings back."""
    values = json.loads(json.dumps(stats._asdict()))
    return LabelStats.of_record(files.Record(Path("meta.json"), values, "labels"))


def test_run_on_floats_reads_integers_and_the_other_way_round(tmp_path: Path) -> None:
    floats = write(tmp_path, "floats.csv", [f"{place}.0" for place in range(CLASSES)])
    integers = write(tmp_path, "integers.csv", [str(place) for place in range(CLASSES)])
    for trained, later in ((floats, integers), (integers, floats)):
        stats = kept(build.label_stats(settings(trained), build.open_splits(settings(trained))["train"]))
        assert stats.reading == "numbers"
        assert stats.label_names == tuple(map(str, range(CLASSES)))
        found = build.open_splits(settings(later), stats)["train"]
        assert found.labels().tolist() == list(range(CLASSES))
        target = build.open_target(settings(trained, target=later), stats.label_names, stats.reading)
        assert target is not None
        assert target.evaluation.labels().tolist() == list(range(CLASSES))


def test_run_on_names_refuses_numbers_unless_it_is_told_what_they_are(tmp_path: Path) -> None:
    names = write(tmp_path, "names.csv", ["ash", "birch", "cedar"])
    places = write(tmp_path, "places.csv", ["1", "2", "0"])
    stats = kept(build.label_stats(settings(names), build.open_splits(settings(names))["train"]))
    with pytest.raises(UserError, match=r"row 2 of .*places.csv has '1'; .*config.data.labels_are=places"):
        build.open_splits(settings(places), stats)
    found = build.open_splits(settings(places, labels_are="places"), stats)["train"]
    assert found.labels().tolist() == [1, 2, 0]
    with pytest.raises(UserError, match=r"data.labels_are is 'ids', expected one of '', 'names', 'places'"):
        settings(places, labels_are="ids")


def test_labels_of_runs_that_did_not_keep_their_reading_come_back() -> None:
    saved = json.loads(json.dumps(LabelStats(("a", "b"), 4, (2, 2))._asdict()))
    del saved["reading"]
    found = LabelStats.of_record(files.Record(Path("meta.json"), saved, "labels"))
    assert found == LabelStats(("a", "b"), 4, (2, 2), reading="")


def test_rows_of_tables_and_files_of_archives_are_predicted_too(tmp_path: Path) -> None:
    table = write(tmp_path, "names.csv", ["ash", "birch"])
    archive = write_tar(tmp_path / "a.tar", [(f"{place}.png", b"x") for place in range(3)])
    found = given.sources(settings(table), [table, str(archive), str(tmp_path / "0.png")], [])
    assert [len(source) for source in found] == [2, 3, 1]
    assert found[1].describe(2) == f"2.png in {archive}"


def test_batch_larger_than_the_training_set_is_said() -> None:
    base = config.read("configs/smoke.py", [("train.batch_size", "5000")])
    assert build.batch_remarks(base, 5000) == []
    (line,) = build.batch_remarks(base, 1438)
    assert line == (
        "train.batch_size is 5,000 and there are 1,438 training examples: a batch has each of them 3.48 "
        "times on average"
    )
