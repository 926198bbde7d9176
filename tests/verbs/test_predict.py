"""`jtl predict` and `jtl features`: what they give of images, and what they say of those they cannot read."""

import csv
import errno
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jtl import predictor
from jtl.errors import UserError
from jtl.models import MODELS
from jtl.training import config, step
from jtl.verbs import features, predict
from jtl.weights import FAMILIES
from tests.weights import writing

NUM_IMAGES = 5


OPTIONS = {"batch_size": 2, "overrides": (("sharding.devices", "1"), ("model.image_px", "16"))}


def _predict(weights: str, *images: str, top: int = 2, **options: Any) -> dict[str, Any]:
    return predict.run(weights=weights, inputs=images, top=top, **{**OPTIONS, **options})


def _features(weights: str, data: Path, out: Path, *layers: str, **options: Any) -> dict[str, Any]:
    return features.run(weights=weights, data=str(data), out=str(out), layers=layers, **OPTIONS, **options)


def test_every_image_has_its_classes_by_probability(weights: str, photos: Path) -> None:
    found = _predict(weights, str(photos), top=3)
    assert [row["path"] for row in found["images"]] == sorted(str(path) for path in photos.rglob("*.png"))
    for row in found["images"]:
        values = [each["value"] for each in row["predictions"]]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1.0, abs=1e-5)
        assert {each["index"] for each in row["predictions"]} == {0, 1, 2}


def test_prediction_is_the_models_own(weights: str, photos: Path) -> None:
    """The head on features written by `jtl features` gives the probabilities that `jtl predict` gives."""
    out = photos.parent / "features.npz"
    _features(weights, photos, out)
    head = writing.leaves_of("cifar_resnet")
    with np.load(out) as file:
        logits = file["pre_head"] @ head["params/head/kernel"] + head["params/head/bias"]
        by_path = dict(zip(file["path"], logits, strict=True))
    for row in _predict(weights, str(photos), top=3)["images"]:
        expected = np.exp(by_path[row["path"]] - by_path[row["path"]].max())
        expected /= expected.sum()
        for each in row["predictions"]:
            assert each["value"] == pytest.approx(expected[each["index"]], abs=1e-5)


def test_outputs_take_the_names_given(weights: str, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("ant\nbee\n\ncow\n")
    for classes in ("ant,bee, cow", str(file)):
        row = _predict(weights, str(photos / "ants" / "1.png"), classes=classes)["images"][0]
        assert all(each["label"] == ("ant", "bee", "cow")[each["index"]] for each in row["predictions"])
    with pytest.raises(UserError, match="2 class names are given; expected one for each of 3"):
        _predict(weights, str(photos), classes="ant,bee")
    with pytest.raises(UserError, match=r"--classes 'missing.txt' is no file; expected one, with a name"):
        _predict(weights, str(photos), classes="missing.txt")


def test_thousand_unnamed_outputs_are_shown_as_imagenets() -> None:
    names = predictor.imagenet_names()
    assert len(set(names)) == 1000
    assert (names[0], names[285], names[999]) == ("tench", "Egyptian cat", "toilet tissue")


def test_unreadable_images_are_named_after_the_others_are_predicted(
    weights: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    good, out = photos / "bees" / "0.png", tmp_path / "out.csv"
    found = _predict(weights, str(tmp_path / "broken.png"), str(good), out=str(out))
    assert [row["path"] for row in found["images"] if "predictions" in row] == [str(good)]
    with pytest.raises(UserError, match=r"1 of 2 images cannot be read .*broken.png"):
        predict.check_readable(found)
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows if row["rank"] == "1"] == [str(good)]
    assert [row["path"] for row in rows if row["error"]] == [str(tmp_path / "broken.png")]


def test_json_lines_hold_what_is_returned(weights: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    found = _predict(weights, str(photos), out=str(out))
    assert [json.loads(line) for line in out.read_text().splitlines()] == found["images"]


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        ("nothing.png", {}, "'nothing.png' is not there; expected a file, or a folder of images"),
        (".", {"top": 0}, "--top is 0; expected 1 or more"),
        (".", {"batch_size": 0}, "--batch-size is 0; expected 1 or more"),
        (".", {"out": "x.xml"}, "--out 'x.xml' ends in '.xml'; expected one of .csv, .jsonl"),
        (".", {"out": "no/such/x.csv"}, "folder 'no/such' is not there"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(
    weights: str, images: str, changes: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _predict(weights, images, **changes)


def test_folder_without_images_is_refused(weights: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match="holds no image"):
        _predict(weights, str(tmp_path))


def test_features_keep_order_labels_and_splits(weights: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    done = _features(weights, photos, out, "stage2", "block1/unit1")
    table = pq.read_table(out).to_pydict()
    assert done["features"] == {"stage2": [NUM_IMAGES, 8], "block1/unit1": [NUM_IMAGES, 4]}
    assert [Path(path).parent.name for path in table["path"]] == table["label_name"]
    assert set(table["split"]) == {"train"}
    assert np.array(table["stage2"]).shape == (NUM_IMAGES, 8)


def test_whole_maps_are_kept_where_asked(weights: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    _features(weights, photos, out, "stage1", pool="none")
    _features(weights, photos, tmp_path / "pooled.npz", "stage1")
    with np.load(out) as whole, np.load(tmp_path / "pooled.npz") as pooled:
        assert whole["stage1"].ndim == 4
        np.testing.assert_allclose(whole["stage1"].mean((1, 2)), pooled["stage1"], rtol=1e-5)
        assert list(whole["label_names"]) == ["ants", "bees"]


@pytest.mark.parametrize(
    ("names", "pool", "out", "message"),
    [
        (("stage9",), "mean", "x.npz", "--features names 'stage9', which is no layer; nearest: 'stage2'"),
        ((), "max", "x.npz", "--pool is 'max'; expected one of mean, cls, cls_mean, none"),
        ((), "mean", "x.csv", r"ends in '.csv'; expected one of .npz, .parquet"),
        ((), "none", "x.parquet", "need an --out ending in .npz"),
        (
            ("stage1",),
            "cls",
            "x.npz",
            "--pool is 'cls' and layer 'stage1' has no class token",
        ),
    ],
)
def test_features_that_cannot_be_had_are_refused(
    weights: str, photos: Path, tmp_path: Path, names: tuple[str, ...], pool: str, out: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _features(weights, photos, tmp_path / out, *names, pool=pool)
    assert not (tmp_path / out).exists()


def test_backbone_without_a_head_gives_features(photos: Path, tmp_path: Path) -> None:
    origin = FAMILIES["vit"].origins["timm"]
    save_file(writing.named(origin, writing.leaves_of("vit", num_outputs=0)), tmp_path / "vit.safetensors")
    out = tmp_path / "features.npz"
    done = features.run(
        weights=str(tmp_path / "vit.safetensors"),
        data=str(photos),
        out=str(out),
        pool="cls",
        overrides=[("sharding.devices", "1")],
    )
    assert done["features"] == {"pre_head": [NUM_IMAGES, MODELS["vit"].tiny().dim]}
    with pytest.raises(UserError, match="has no classification head"):
        _predict(str(tmp_path / "vit.safetensors"), str(photos))


def test_how_images_are_seen_is_said(weights: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _predict(weights, str(photos / "ants" / "1.png"))
    shown = capsys.readouterr().err
    assert "pre-processing: short side to 16 px (bicubic), centre 16x16" in shown
    assert "(a guess, the family's own, as the weights came without any; to change it: preprocess." in shown


def test_files_in_a_folder_that_are_no_images_are_named(
    weights: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    for name in ("notes.txt", "ants/labels.csv", ".hidden.txt"):
        (tmp_path / "photos" / name).write_text("no image")
    found = _predict(weights, str(tmp_path / "photos"))
    assert len(found["images"]) == NUM_IMAGES
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("passed over")]
    folder = tmp_path / "photos"
    assert line == f"passed over 2 files in {folder}, by their endings no images: ants/labels.csv, notes.txt"


def test_every_file_of_a_folder_is_predicted_or_named(
    weights: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Endings of cameras and browsers, none at all, links, and names that are no UTF-8."""
    folder, image = tmp_path / "new", Image.open(photos / "bees" / "0.png")
    folder.mkdir()
    for name, kind in (("b.JPEG", "JPEG"), ("c.jfif", "JPEG"), ("e.avif", "AVIF"), ("none", "PNG")):
        image.save(folder / name, kind)
    (folder / "f.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (folder / "linked").symlink_to(photos / "ants")
    (folder / "loop").symlink_to(folder)
    shutil.copy(photos / "bees" / "0.png", os.fsencode(folder) + b"/p\xe9.png")
    found, out = _predict(weights, str(folder), out=str(tmp_path / "out.csv")), tmp_path / "out.csv"
    names = ["b.JPEG", "c.jfif", "e.avif", "f.heic", "linked/1.png", "linked/3.png", "none", "p\\xe9.png"]
    assert [row["path"] for row in found["images"]] == [str(folder / name) for name in names]
    assert [row["path"] for row in found["images"] if "error" in row] == [str(folder / "f.heic")]
    assert (
        f"passed over 1 file in {folder}, by their endings no images: loop (a link" in capsys.readouterr().err
    )
    with out.open(encoding="utf-8") as stream:
        assert [row["path"] for row in csv.DictReader(stream) if row["rank"] in ("1", "")] == [
            str(folder / name) for name in names
        ]


def test_what_was_predicted_before_an_error_stays(
    weights: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rows = tmp_path / "out.jsonl", predict._rows

    def broken(*arguments: Any) -> Any:
        yield from itertools.islice(rows(*arguments), 3)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predict, "_rows", broken)
    with pytest.raises(UserError, match=r"out.jsonl' cannot be written: No space left on device; make room"):
        _predict(weights, str(photos), out=str(out))
    assert len(out.read_text().splitlines()) == 3


def test_result_that_cannot_be_written_is_refused_before_anything_is_computed(
    weights: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "open", lambda *_, **__: pytest.fail("the model was built"))
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(UserError, match=r"x.csv' is a folder; expected the name of a file"):
        _predict(weights, str(photos), out=str(tmp_path / "x.csv"))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"y.csv' cannot be written: permission denied"):
        _predict(weights, str(photos), out=str(tmp_path / "y.csv"))
    with pytest.raises(UserError, match=r"y.npz' cannot be written: permission denied"):
        _features(weights, photos, tmp_path / "y.npz")


def test_features_need_no_labels_and_name_what_cannot_be_read(
    weights: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(photos / "ants", flat)
    _features(weights, flat, tmp_path / "out.parquet")
    assert "features without labels: " in capsys.readouterr().err
    table = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert sorted(table) == ["path", "pre_head", "split"]
    (flat / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(
        UserError, match=r"1 image is unreadable, expected at most 0: cannot read .*broken.png"
    ):
        _features(weights, flat, tmp_path / "out.npz")
    skip = ("data.max_unreadable", "1")
    done = features.run(
        weights=weights,
        data=str(flat),
        out=str(tmp_path / "out.npz"),
        batch_size=2,
        overrides=(*OPTIONS["overrides"], skip),
    )
    assert done["num_examples"] == 2
    assert "skipped 1 unreadable image: cannot read" in capsys.readouterr().err


def test_folder_of_shards_is_read_as_the_set_that_training_reads(
    weights: str, photos: Path, tmp_path: Path
) -> None:
    paths = sorted(photos.rglob("*.png"))
    for shard, some in enumerate((paths[:2], paths[2:])):
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in some]
        table = pa.table({"image": images, "label": [0] * len(some)})
        (tmp_path / "hub").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "hub" / f"train-{shard:05d}-of-00002.parquet")
    found = _predict(weights, str(tmp_path / "hub"))["images"]
    expected = _predict(weights, str(photos))["images"]
    assert [row["predictions"] for row in found] == [row["predictions"] for row in expected]
    assert [row["path"].split("/")[-1] for row in found] == [
        *("train-00000-of-00002.parquet" for _ in paths[:2]),
        *("train-00001-of-00002.parquet" for _ in paths[2:]),
    ]
    with pytest.raises(UserError, match="a run has names already: leave it out"):
        predict.run(run_folder="r", classes="a,b,c", inputs=[str(photos)])


def test_texts_are_refused_by_a_model_that_reads_images(weights: str, photos: Path) -> None:
    with pytest.raises(UserError, match="--text holds examples of kind 'text', and the model reads 'image'"):
        _predict(weights, texts=("a good film",))
    with pytest.raises(UserError, match="there is nothing to predict; give files or folders of images"):
        _predict(weights)
    with pytest.raises(UserError, match=r"'review.txt' is one of texts, and the model reads images"):
        _predict(weights, "review.txt")


def test_model_is_compiled_once_for_all_splits(
    weights: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val", "test"):
        shutil.copytree(photos, tmp_path / "data" / split)
    traced, forward = [], step.forward_normalised

    def counted(parts: Any, params: Any, model_state: Any, inputs: Any) -> Any:
        traced.append(inputs.shape)
        return forward(parts, params, model_state, inputs)

    monkeypatch.setattr(step, "forward_normalised", counted)
    done = _features(weights, tmp_path / "data", tmp_path / "out.npz")
    assert done["num_examples"] == 3 * NUM_IMAGES
    assert [shape[0] for shape in traced] == [2]


def test_features_of_a_table_without_labels_are_of_its_contents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reviews.csv").write_text("text,stars\na good film,4\na bad one,1\n")
    data = {"name": "table", "path": str(tmp_path / "reviews.csv"), "val_fraction": 0.0}
    splits = features._splits(config.from_dict({"model": {"name": "bert"}, "data": data}))
    assert [splits["train"][row]["raw"] for row in range(2)] == ["a good film", "a bad one"]
    assert splits["train"].labels() is None
    assert "features without labels: " in capsys.readouterr().err
    data["path"] = str(tmp_path / "missing.csv")
    with pytest.raises(UserError, match=r"missing.csv"):
        features._splits(config.from_dict({"model": {"name": "bert"}, "data": data}))
