"""`jtl few-shot`: accuracy over episodes with its interval, on classes that need not be those of training."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl import cli
from jtl.data.episodes import Shape
from jtl.errors import UserError
from jtl.ranking import FEW_SHOT
from jtl.verbs.few_shot import few_shot, methods, tuned
from jtl.verbs.few_shot.asked import Episodes
from jtl.verbs.few_shot.few_shot import run
from jtl.verbs.rank import candidates

# Each is compiled for itself.
LEARNT = ("maml", "reptile", "full", "bitfit", "proto_net")
FEW = Episodes(ways=2, shots=(1,), queries=1, num_episodes=12)


@pytest.fixture(scope="module")
def found(weights: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Twelve episodes of two classes out of five images, and the file."""
    out = tmp_path_factory.mktemp("few") / "few.json"
    result = run(data=str(photos), weights=[weights], asked=FEW, out=str(out))
    assert json.loads(out.read_text())["results"] == result["results"]
    return result


def test_every_method_has_an_accuracy_with_its_interval(found: dict[str, Any]) -> None:
    assert [row["method"] for row in found["results"]] == list(FEW_SHOT)
    for row in found["results"]:
        # Two queries an episode.
        assert (24 * row["accuracy"]) % 1 == pytest.approx(0.0, abs=1e-9)
        assert row["half"] >= 0.0
    assert found["class_names"] == ["ants", "bees"]


def test_the_interval_is_that_of_a_mean_over_episodes() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 9)
    features = random.normal(size=(36, 6)) + 1.2 * np.eye(4, 6)[labels]
    asked = Episodes(ways=3, shots=(1, 5), queries=4, num_episodes=12)
    nothing: Any = None
    case = methods.Case(nothing, "", nothing, nothing, labels, features, None, (), print)
    rows = few_shot._rows(case, ("nearest_mean", "probe"), asked)
    shares = methods.measured("nearest_mean", case, Shape(3, 1, 4), asked)
    row = rows[0]
    assert (row["method"], row["shots"], len(rows)) == ("nearest_mean", 1, 4)
    assert row["accuracy"] == pytest.approx(shares.mean())
    assert row["half"] == pytest.approx(1.959964 * shares.std(ddof=1) / math.sqrt(12))
    # More examples tell more.
    assert rows[2]["accuracy"] > row["accuracy"] > 0.4


def test_a_split_of_other_classes_is_read_by_itself(weights: str, tmp_path: Path, capsys: Any) -> None:
    random = np.random.default_rng(0)
    for place in ("train/ants", "train/bees", "test/wasps", "test/moths"):
        (tmp_path / place).mkdir(parents=True)
        for index in range(2):
            pixels = random.integers(0, 256, (34, 33, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / place / f"{index}.png")
    result = run(data=str(tmp_path), weights=[weights], asked=FEW, split="test", base=str(tmp_path / "train"))
    assert result["class_names"] == ["moths", "wasps"]
    assert "features of 4 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (FEW._replace(ways=3), "the data has 2 classes and --ways is 3; lower it"),
        (FEW._replace(shots=(1, 4)), "class 'ants' has 2 examples, and an episode takes 5 of each"),
        (FEW._replace(shots=(0,)), "--shots is 0; expected 1 or more"),
        (FEW._replace(ways=1), "--ways is 1; expected 2 or more"),
        (FEW._replace(num_episodes=0), "--episodes is 0; expected 1 or more"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_one_line(
    weights: str, photos: Path, asked: Episodes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(data=str(photos), weights=[weights], asked=asked)


def test_what_is_not_there_is_named(weights: str, photos: Path) -> None:
    with pytest.raises(UserError, match=r"--layer 'stage7' is no layer of .*; nearest: 'stage"):
        run(data=str(photos), weights=[weights], asked=FEW, layer="stage7")
    with pytest.raises(UserError, match="--split 'tets' is not in the data; nearest: 'train'"):
        run(data=str(photos), weights=[weights], asked=FEW, split="tets")
    with pytest.raises(UserError, match="--shots is '1;5'; expected numbers such as 1,5"):
        few_shot.shots_of("1;5")


def test_command_prints_a_table_and_what_comes_next(
    weights: str, photos: Path, found: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--ways", "2", "--shots", "1", "--queries", "1", "--episodes", "12", "--json"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["few-shot", str(photos), "--weights", weights, *words])
    assert stop.value.code == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out)["results"] == found["results"]
    assert "over 12 episodes of 2 classes, 95 % interval" in streams.err
    assert f"next: jtl rank {photos}" in streams.err


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of pictures, dark, grey and bright, with four of each."""
    folder = tmp_path_factory.mktemp("turned")
    random = np.random.default_rng(0)
    for place, level in enumerate((20, 120, 220)):
        (folder / f"class{place}").mkdir()
        for index in range(4):
            pixels = random.integers(level, level + 30, (34, 33, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"class{place}" / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    "method",
    ["anil", *(pytest.param(name, marks=pytest.mark.slow) for name in LEARNT)],
)
def test_a_method_that_learns_every_episode_is_measured_and_says_how_it_learns(
    method: str, weights: str, turned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Episodes(ways=3, shots=(2,), queries=2, num_episodes=2, steps=2)
    has_inner_steps = method in ("maml", "anil", "reptile")
    given = [("strategy.inner_steps", "2")] if has_inner_steps else [("augment.flip", "0")]
    result = run(data=str(turned), weights=[weights], asked=asked, methods=[method], overrides=given)
    (row,) = result["results"]
    assert (row["method"], row["shots"]) == (method, 2)
    # Two episodes of six to tell.
    assert (12 * row["accuracy"]) % 1 == pytest.approx(0.0, abs=1e-9)
    said = capsys.readouterr().err
    assert ("(transductive)" in said) == (method in ("maml", "reptile"))
    assert (f"{method}: shots=2, inner_steps=2" in said) == has_inner_steps


@pytest.mark.slow
def test_every_episode_is_learnt_from_the_weights_as_they_are(weights: str, turned: Path) -> None:
    (each,) = candidates.read([weights], "", str(turned))
    opened = candidates.opened(each, str(turned), [])
    case, _ = few_shot._case(opened, each, (str(turned), ""), None, [])
    asked = {"shape": Shape(2, 1, 3), "steps": 2, "overrides": []}
    tell = tuned.by_strategy("full", opened=case.opened, source=case.source, inputs=case.inputs(), **asked)
    few, others = np.array([0, 4]), np.array([1, 2, 3, 5, 6, 7])
    first = tell(few, others, 0)
    tell(np.array([8, 4]), others, 1)
    np.testing.assert_array_equal(tell(few, others, 0), first)


def test_an_unknown_method_names_the_nearest(weights: str, photos: Path) -> None:
    with pytest.raises(UserError, match="--methods has 'mamal'; nearest: 'maml'"):
        run(data=str(photos), weights=[weights], asked=FEW, methods=["mamal"])
