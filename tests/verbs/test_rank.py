"""`jtl rank`: every candidate forward once, the same folds for all, and one line where it cannot be."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl import cli, predictor
from jtl.errors import UserError
from jtl.strategies.contract import Solver
from jtl.training import build, config
from jtl.verbs import features, observed
from jtl.verbs.rank import candidates, examples, plot, results, tables
from jtl.verbs.rank.examples import Sample
from jtl.verbs.rank.rank import run
from jtl.weights.hub import catalogue

OTHER = "preprocess.mean=(0.2,0.5,0.9)"


@pytest.fixture(autouse=True, scope="module")
def _one_strength() -> Iterator[None]:
    """Fit each probe once: how its strength is chosen has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jtl.ranking.logistic.SOLVER", Solver((10.0,), 2))
        yield


@pytest.fixture(scope="module")
def ranked(weights: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A ranking of the same weights, read in two ways, on five images."""
    out = tmp_path_factory.mktemp("rank")
    specs = [weights, f"{weights}:{OTHER}"]
    return {"out": out, **run(data=str(photos), weights=specs, folds=2, estimates=False, out=str(out))}


def test_candidates_stand_from_the_best_to_the_worst(ranked: dict[str, Any]) -> None:
    values = [each["probe"]["value"] for each in ranked["candidates"]]
    assert values == sorted(values, reverse=True)
    assert ranked["candidates"][0]["behind"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert ranked["recommended"] == ranked["candidates"][0]["weights"]
    assert ranked["sentence"].startswith(f"Take {ranked['candidates'][0]['label']}: a probe of its features")
    assert [each["settings"] for each in ranked["candidates"]].count({}) == 1


def test_a_ranking_is_json_and_a_picture(ranked: dict[str, Any]) -> None:
    found = json.loads((ranked["out"] / "rank.json").read_text())
    assert found["candidates"] == ranked["candidates"]
    assert (found["num_examples"], found["folds"], found["metric"]) == (5, 2, "accuracy")
    with Image.open(ranked["out"] / "rank.png") as picture:
        assert picture.size[0] > 1000


def test_layers_are_from_input_to_output(ranked: dict[str, Any]) -> None:
    names = list(ranked["candidates"][0]["layers"])
    assert (names[0], names[-1]) == ("root", "pre_head")
    assert names.index("block1/unit1") < names.index("stage1") < len(names) - 1


def test_weights_with_a_head_have_leep(ranked: dict[str, Any]) -> None:
    scores = ranked["candidates"][0]["scores"]
    assert list(scores) == ["log_me", "h_score", "nleep", "leep", "sfda", "parc"]
    assert all(np.isfinite(value) for value in scores.values())


def test_tables_and_picture_name_every_candidate(ranked: dict[str, Any]) -> None:
    records = ranked["candidates"]
    text = tables.tables(records, "accuracy")
    assert "best layer" in text
    assert len(text.splitlines()) == 2 * (1 + len(records)) + 1
    figure = plot.draw(records, "accuracy")
    assert len(figure.axes[0].get_yticklabels()) == len(records)
    assert "accuracy" in figure.axes[0].get_xlabel()


def test_examples_go_through_a_model_once_whatever_is_asked_next(
    weights: str, photos: Path, ranked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(predictor, "stepped", lambda *_: pytest.fail("the examples are run again"))
    found = run(data=str(photos), weights=[weights], folds=2, estimates=False)
    assert "read from the cache" in capsys.readouterr().err
    plain = next(each for each in ranked["candidates"] if not each["settings"])
    assert found["candidates"][0]["scores"] == plain["scores"]


def test_what_is_ranked_is_what_features_writes(weights: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    features.run(weights=weights, data=str(photos), layers=("stage2", "pre_head"), batch_size=5, out=str(out))
    each = candidates.Candidate("tiny", weights)
    opened = candidates.opened(each, str(photos), ())
    source = build.open_splits(opened.settings)["train"]
    seen = observed.observed(opened, source, 5, lambda line: None, "tiny")
    written = np.load(out)
    assert written["path"].tolist() == [source.describe(row) for row in range(len(source))]
    for name in ("stage2", "pre_head"):
        np.testing.assert_allclose(seen.layers[name], written[name], rtol=1e-5, atol=1e-6)
    assert seen.logits is not None
    assert seen.logits.shape == (5, 3)


def _data(folder: Path, counts: dict[str, int]) -> str:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 256, (34, 33, 3), np.uint8)
            Image.fromarray(pixels + np.uint8(len(name))).save(folder / name / f"{index}.png")
    return str(folder)


def test_data_that_cannot_be_ranked_on_is_one_line(weights: str, tmp_path: Path) -> None:
    few = _data(tmp_path / "few", {"ants": 5, "bees": 3})
    with pytest.raises(UserError, match="class 'bees' has 3 examples and 5 are needed of each"):
        run(data=few, weights=[weights], estimates=False)
    one = tmp_path / "one.csv"
    one.write_text("\n".join(["path,label", *(f"{each},ant" for each in sorted(Path(few).rglob("*.png")))]))
    with pytest.raises(UserError, match="has the class 'ant' alone; expected two or more"):
        run(data=str(one), weights=[weights], estimates=False)
    with pytest.raises(UserError, match="--split 'tets' is not in the data; nearest: 'train'"):
        run(data=few, weights=[weights], asked=Sample(split="tets"), estimates=False)
    with pytest.raises(UserError, match=r"task\.name is 'masked_tokens', whose labels are of kind 'none'"):
        run(data=few, weights=[weights], overrides=[("task.name", "masked_tokens")], estimates=False)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "there is nothing to rank; give --weights SPEC …, or --catalogue small"),
        (["a", "a"], "'a' is listed twice"),
        (["a:data.val_fraction=0.1"], "which all that are ranked share; give --config.data.val_fraction=0.1"),
        (["a:model.padding="], "expected SPEC:SECTION.NAME=VALUE"),
    ],
)
def test_a_malformed_list_is_one_line(specs: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        candidates.read(specs, "", "photos")


def test_unknown_catalogue_is_named(photos: Path) -> None:
    with pytest.raises(UserError, match="--catalogue is 'tiny'; nearest: 'small'"):
        candidates.read([], "tiny", str(photos))


def test_settings_of_one_candidate_stand_behind_its_spec() -> None:
    found = candidates.read(
        ["hf://timm/a@main", "b.pth:model.padding=same;preprocess.mean=(0.5,0.5,0.5)", "x/b.pth"], "", ""
    )
    assert [each.spec for each in found] == ["hf://timm/a@main", "b.pth", "x/b.pth"]
    assert found[1].overrides == (("model.padding", "same"), ("preprocess.mean", "(0.5,0.5,0.5)"))
    assert [each.label for each in found] == [
        "a@main",
        "b.pth;model.padding=same;preprocess.mean=(0.5,0.5,0.5)",
        "x/b.pth",
    ]


def test_names_of_the_short_list_are_in_the_catalogue(photos: Path) -> None:
    found = candidates.read([], "small", str(photos))
    assert {each.spec for each in found} <= catalogue.entries().keys()
    assert len(found) >= 5


def test_unreadable_weights_are_left_out_only_when_that_is_said(
    weights: str, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not weights")
    options: dict[str, Any] = {"data": str(photos), "folds": 2, "estimates": False}
    with pytest.raises(UserError, match=r"bad\.safetensors"):
        run(weights=[str(bad), weights], **options)
    found = run(weights=[str(bad), weights], skips_unreadable=True, **options)
    assert [each["weights"] for each in found["skipped"]] == [str(bad)]
    assert len(found["candidates"]) == 1
    assert "skipped bad.safetensors: " in capsys.readouterr().err
    with pytest.raises(UserError, match="none of 1 weights can be ranked; the first: "):
        run(weights=[str(bad)], skips_unreadable=True, **options)


def test_numbers_are_ranked_by_r2(weights: str, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "numbers.csv"
    paths = sorted(photos.rglob("*.png"))
    rows = [f"{path},{index * 0.5 - 3}" for index, path in enumerate(paths)]
    table.write_text("\n".join(["path,label", *rows]))
    overrides = [("task.name", "regression")]
    found = run(data=str(table), weights=[weights], folds=2, estimates=False, overrides=overrides)
    (record,) = found["candidates"]
    assert (found["metric"], list(record["scores"])) == ("r2", ["log_me"])
    assert record["probe"]["value"] < 1.0


def _record(label: str, value: float, behind: tuple[float, float, float], seconds: float) -> dict[str, Any]:
    return {
        "label": label,
        "probe": {"value": value, "low": value - 0.01, "high": value + 0.01},
        "behind": dict(zip(("value", "low", "high"), behind, strict=True)),
        "cost": {"epoch_seconds": seconds},
    }


def test_sentence_recommends_and_names_its_evidence() -> None:
    evidence = "accuracy 90.0 % (89.0 to 91.0) on 100 examples held out in 5 folds"
    best = _record("a", 0.9, (0.0, 0.0, 0.0), 8.0)
    behind = _record("b", 0.8, (0.1, 0.05, 0.15), 1.0)
    alike = _record("c", 0.89, (0.01, -0.02, 0.03), 2.0)
    assert results.sentence([best, behind], "accuracy", 5, 100) == (
        f"Take a: a probe of its features has {evidence}, ahead of b, the next, by 10.0 points (5.0 to 15.0)."
    )
    assert results.sentence([best, alike, behind], "accuracy", 5, 100).endswith(
        "but the intervals of the differences do not tell it from c; c would train 4.0 times as fast."
    )
    assert results.sentence([best], "r2", 5, 100).endswith("; there is no other to compare it with.")


def test_examples_are_thinned_in_the_ratio_of_the_classes(tmp_path: Path) -> None:
    settings = config.from_dict(
        {"data": {"path": _data(tmp_path, {"ants": 12, "wasps": 6}), "val_fraction": 0.0}}
    )
    source = build.open_splits(settings)["train"]
    found, (line,) = examples.thinned(source, 9, 2)
    assert np.bincount(found.labels()).tolist() == [6, 3]
    assert line.startswith("9 of 18 examples are looked at, in the ratio of the classes")
    # Every class keeps what folds need of it.
    found, _ = examples.thinned(source, 4, 3)
    assert np.bincount(found.labels()).tolist() == [3, 3]
    assert examples.thinned(source, 0, 2) == (source, ())


@pytest.mark.slow
def test_command_ends_with_what_to_train(
    weights: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["rank", str(photos), "--weights", weights, "--folds", "2", "--json"])
    assert stop.value.code == 0
    streams = capsys.readouterr()
    cost = json.loads(streams.out)["candidates"][0]["cost"]
    assert min(cost["memory_bytes"], cost["step_flops"], cost["step_seconds"], cost["epoch_seconds"]) > 0
    assert f"next: jtl train {photos} --weights {weights}" in streams.err
