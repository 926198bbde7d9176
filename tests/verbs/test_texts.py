"""The verbs after training on a model that reads texts: what is predicted of what, measured, and refused."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl import cli
from jtl.data import Info
from jtl.data.contract import TEXT
from jtl.data.texts import Texts
from jtl.errors import UserError
from jtl.explain import overlays
from jtl.training import config
from jtl.training import run as train
from jtl.verbs import evaluate, features, predict
from jtl.verbs.compare import compare
from jtl.verbs.fuse import fuse

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokens" / "words" / "tokenizer.json"
MODEL = {"name": "bert", "size": "bert_tiny", "vocabulary": 200, "dim": 16, "depth": 1, "mlp_dim": 16}
WORDS = {"good": "a good film", "bad": "a bad film"}
NUM_TEXTS = 40


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of short and long texts of two classes."""
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        for index in range(NUM_TEXTS):
            label = list(WORDS)[index % 2]
            writer.writerow((f"{WORDS[label]} {index}" + ", and more" * (index % 7), label))
    return path


@pytest.fixture(scope="module")
def runs(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of other seeds, whose tokenizer is where only they know it."""
    folder = tmp_path_factory.mktemp("runs")
    brought = folder / "brought.json"
    brought.write_bytes(TOKENIZER.read_bytes())
    for seed, name in enumerate("ab"):
        train.run(config.from_dict(_settings(reviews, brought, seed)), folder / name)
    brought.unlink()
    return folder


def _settings(reviews: Path, tokenizer: Path, seed: int) -> dict[str, Any]:
    return {
        "model": MODEL,
        "data": {"name": "table", "path": str(reviews)},
        "preprocess": {"tokenizer": str(tokenizer), "max_tokens": 32},
        "train": {"steps": 2, "batch_size": 8, "eval_every": 2, "seed": seed},
        "sharding": {"devices": 1},
    }


def test_run_is_measured_where_its_tokenizer_is_gone(runs: Path) -> None:
    found = evaluate.run(run_folder=str(runs / "a"), split="val", batch_size=3)
    best = json.loads((runs / "a" / "summary.json").read_text())["best"]
    assert found["metrics"]["accuracy"] == best["val/accuracy"]
    assert found["metrics"]["loss"] == pytest.approx(best["val/loss"], rel=1e-5)


def test_text_has_one_prediction_wherever_it_stands(runs: Path, tmp_path: Path) -> None:
    text = "a good film, and more, and more"
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "0.txt").write_text(text + "\n")
    (tmp_path / "table.csv").write_text(f'text,stars\n"{text}",5\n')
    found = predict.run(
        run_folder=str(runs / "a"),
        inputs=[str(tmp_path / "table.csv"), str(tmp_path / "texts")],
        texts=["bad", text],
        out=str(tmp_path / "out.csv"),
    )["texts"]
    assert [row["text"] for row in found] == [text, text, "bad", text]
    assert found[0]["source"] == f"row 2 of {tmp_path / 'table.csv'}"
    assert found[1]["source"] == str(tmp_path / "texts" / "0.txt")
    for row in (found[1], found[3]):
        for each, first in zip(row["predictions"], found[0]["predictions"], strict=True):
            assert each["label"] == first["label"]
            assert each["value"] == pytest.approx(first["value"], abs=1e-6)
    with (tmp_path / "out.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["text"] for row in rows if row["rank"] == "1"] == [text, text, "bad", text]


def test_long_text_is_cut_on_the_screen_and_whole_in_the_result(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = "long\nlines " * 20, tmp_path / "out.csv"
    (row,) = predict.run(run_folder=str(runs / "a"), texts=[text], out=str(out))["texts"]
    assert row["text"] == text
    with out.open(newline="") as stream:
        assert next(csv.DictReader(stream))["text"] == text
    shown = capsys.readouterr().err.splitlines()
    assert any(line.startswith("long lines long lines") and "…" in line for line in shown)


def test_both_texts_of_a_pair_are_in_the_result(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("text,text_pair\na good,film | bad\n")
    inputs, out = [str(tmp_path / "pairs.csv")], tmp_path / "out.csv"
    rows = predict.run(run_folder=str(runs / "a"), inputs=inputs, texts=["bad"], out=str(out))["texts"]
    assert [(row["text"], row.get("text_pair")) for row in rows] == [("a good", "film | bad"), ("bad", None)]
    with out.open() as stream:
        found = [(row["text"], row["text_pair"]) for row in csv.DictReader(stream) if row["rank"] == "1"]
    assert found == [("a good", "film | bad"), ("bad", "")]


def test_unreadable_text_is_named_after_the_others_are_predicted(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0.txt").write_bytes(b"\xff\xfe no text")
    words = ["predict", "--run", str(runs / "a"), str(tmp_path / "0.txt"), "--text", "a good film", "--json"]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert "predictions" in json.loads(shown.out)["texts"][1]
    assert "1 of 2 texts cannot be read (the others are predicted): cannot read" in shown.err


def test_features_of_texts_are_those_of_each_alone(runs: Path, reviews: Path, tmp_path: Path) -> None:
    for batch_size, name in ((1, "single"), (16, "many")):
        out = tmp_path / f"{name}.npz"
        features.run(run_folder=str(runs / "a"), data=str(reviews), batch_size=batch_size, out=str(out))
    with np.load(tmp_path / "single.npz") as single, np.load(tmp_path / "many.npz") as many:
        assert len(many["path"]) == NUM_TEXTS
        np.testing.assert_allclose(many["pre_head"], single["pre_head"], atol=1e-6)
    with pytest.raises(UserError, match="has another shape where texts are longer; expected one vector an"):
        features.run(
            run_folder=str(runs / "a"),
            data=str(reviews),
            layers=("block0",),
            pool="none",
            batch_size=1,
            out=str(tmp_path / "maps.npz"),
        )


@pytest.mark.parametrize("method", ["uniform", "ensemble"])
def test_runs_of_texts_are_fused(runs: Path, tmp_path: Path, method: str) -> None:
    names = [str(runs / "a"), str(runs / "b")]
    found = fuse.run(runs=names, method=method, out=str(tmp_path / "out"))
    assert found["members"] == names
    assert 0 <= found["metrics"]["val/accuracy"] <= 1
    if method == "uniform":
        measured = evaluate.run(run_folder=str(tmp_path / "out"), split="val")["metrics"]
        assert measured["loss"] == pytest.approx(found["metrics"]["val/loss"], rel=1e-6)


@pytest.mark.slow
def test_a_greedy_soup_of_texts_is_no_worse_than_its_best_run(runs: Path, tmp_path: Path) -> None:
    names = [str(runs / "a"), str(runs / "b")]
    found = fuse.run(runs=names, method="greedy", out=str(tmp_path / "out"))
    assert found["metrics"]["val/accuracy"] >= max(each["accuracy"] for each in found["scores"])


@pytest.mark.slow
def test_the_ends_of_wise_on_texts_are_the_start_and_the_run(runs: Path, tmp_path: Path) -> None:
    start, end = str(runs / "b"), str(runs / "a")
    options = {"start": start, "alphas": "0,0.5,1", "out": str(tmp_path / "out")}
    sweep = fuse.run(runs=[end], method="wise", **options)["sweep"]
    measured = [evaluate.run(run_folder=each, split="val")["metrics"]["loss"] for each in (start, end)]
    assert [sweep[0]["loss"], sweep[2]["loss"]] == pytest.approx(measured, rel=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_ways_to_train_on_texts_are_compared(runs: Path, reviews: Path, tmp_path: Path) -> None:
    settings = _settings(reviews, TOKENIZER, 0)
    settings["model"] = {**MODEL, "weights": str(runs / "a")}
    (tmp_path / "texts.py").write_text(
        f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({settings!r})\n"
    )
    found = compare.run(config=str(tmp_path / "texts.py"), out=str(tmp_path / "out"), seeds="1,")
    assert (found["status"], list(found["variants"])) == ("finished", ["scratch", "probe", "full"])
    assert all(0 <= run["values"]["val best"] <= 1 for run in found["runs"])


def test_images_are_refused_by_a_model_that_reads_texts(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos" / "cat" / "0.png"
    for each in (path, tmp_path / "photos" / "dog" / "0.png"):
        each.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(each)
    run = str(runs / "a")
    with pytest.raises(UserError, match=r"0.png' is one of images, and the model reads texts; give those"):
        predict.run(run_folder=run, inputs=[str(path)])
    with pytest.raises(UserError, match=r"holds no texts; it holds '0.png'; expected files ending in \.txt"):
        predict.run(run_folder=run, inputs=[str(path.parent)])
    with pytest.raises(UserError, match="holds examples of kind 'image', and the model reads 'text'"):
        features.run(run_folder=run, data=str(tmp_path / "photos"), out=str(tmp_path / "out.npz"))
    with pytest.raises(UserError, match="photos holds examples of kind 'image', and the model reads 'text'"):
        evaluate.run(run_folder=run, data=str(tmp_path / "photos"))


def test_report_of_texts_shows_what_each_token_is_worth(runs: Path) -> None:
    texts = Texts(Info("set", (), TEXT), ("a good film", "bad"), None, "set", np.arange(2))
    found = overlays.of_run(runs / "a", texts, [1, 0])
    assert found.method == "gradient-weighted attention, Chefer et al. 2021"
    assert [token for token, _ in found.found[1].tokens] == ["bad"]
    assert [token for token, _ in found.found[0].tokens] == ["a", "good", "film"]
    for each in found.found.values():
        assert max(abs(share) for _, share in each.tokens) == 1.0


def test_texts_in_python_are_texts_and_paths_are_paths(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text('review,stars\n"a good film",5\n')
    model = jtl.load(runs / "a")
    found = model.predict(["a good film", tmp_path / "table.csv"], data={"text_column": "review"})
    assert [each.name for each in found] == ["a good film", "a good film"]
    np.testing.assert_allclose(found.values[0], found.values[1], atol=1e-6)
    assert model.predict("a good film").labels == found.labels[:1]
    assert [each.name for each in model.predict(("a film", "bad"))] == ["a film | bad"]
    assert len(model.predict(["a film", "bad"])) == 2
    assert model.features(["a film", "bad"]).shape == (2, MODEL["dim"])
    (told,) = model.explain("a good film")
    assert [token.text for token in told.tokens if token.kind == "text"] == ["a", "good", "film"]
    assert 'class="t"' in (told._repr_html_() or "")
    assert told.picture is told._repr_png_() is None
    assert model.folder == runs / "a"
    assert model.summary["status"] == "finished"
    with pytest.raises(ValueError, match="a int is given; expected a text, a tuple of two texts, or a"):
        model.predict([1])
    with pytest.raises(ValueError, match="a ndarray is given; expected a text"):
        model.predict([np.zeros((8, 8, 3), np.uint8)])
