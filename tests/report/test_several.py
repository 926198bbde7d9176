"""What a report shows beside its examples, and what runs are called beside each other."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from jtl.errors import UserError
from jtl.report import bootstrap, folder, gains, gallery, page, predictions
from jtl.report.bootstrap import Settings
from jtl.report.scores import Scored
from tests.report.test_page import write_run

NUM_EXAMPLES = 80


def test_explanations_stand_beside_their_examples_with_the_method_named(tmp_path: Path) -> None:
    page_text = page.of_run(folder.read(write_run(tmp_path / "pictures")))
    assert page_text.count('class="explained"') == page_text.count('class="pair"') > 0
    assert page_text.count("<img") == 2 * page_text.count('class="pair"')
    assert "what the prediction hangs on (&lt;script&gt;" in page_text
    texts = write_run(tmp_path / "texts", text="bad film")
    page_text = page.of_run(folder.read(texts))
    assert 'class="against" style="--share:0.500">bad<' in page_text
    assert 'class="for" style="--share:1.000">&lt;script&gt;' in page_text


def test_surest_mistakes_are_explained_before_what_was_taken_by_chance() -> None:
    def pick(row: int, why: str) -> gallery.Pick:
        return gallery.Pick(row, why, "", "", "", False)

    mistakes = [pick(row, gallery.MISTAKES) for row in range(18)]
    others = [pick(row, gallery.RANDOM) for row in (3, 40, 41, 42, 43, 44)]
    assert gallery.explained([*mistakes, *others]) == [*range(8), 40, 41, 42, 43]
    assert gallery.explained(others) == [3, 40, 41, 42, 43, 44]


def test_runs_of_one_name_are_told_apart_by_the_folders_they_lie_in(tmp_path: Path) -> None:
    for variant in ("plain", "lora"):
        write_run(tmp_path / variant / "seed0")
    found = [folder.read(tmp_path / name) for name in ("plain/seed0", "lora/seed0")]
    assert [run.name for run in folder.told_apart(found)] == ["plain/seed0", "lora/seed0"]
    assert "plain/seed0 · lora/seed0" in page.compared(found)
    assert [run.name for run in folder.told_apart(found[:1])] == ["seed0"]
    assert [run.name for run in folder.told_apart([found[0], found[0]])] == ["seed0", "seed0"]


def told(error_rate: float, seed: int = 0) -> gains.Told:
    """What a run says of examples of two classes, of which a share is wrong."""
    random = np.random.default_rng(seed)
    labels = np.arange(NUM_EXAMPLES) % 4 == 0
    predicted = labels ^ (random.random(NUM_EXAMPLES) < error_rate)
    names = [f"{index}.png" for index in range(NUM_EXAMPLES)]
    return gains.Told(names, *(["no" if not each else "yes" for each in row] for row in (labels, predicted)))


def test_gain_is_the_difference_and_its_interval_is_of_the_same_sets_for_both() -> None:
    ours, theirs, settings = told(0.05), told(0.2, seed=1), Settings(resamples=60, seed=3)
    found = gains.over(ours, theirs, settings)
    assert found is not None
    labels, own, other = (
        np.asarray(each) == "yes" for each in (ours.labels, ours.predicted, theirs.predicted)
    )

    def gain(weights: np.ndarray) -> float:
        return sum(
            sign * f1_score(labels, each, average="macro", sample_weight=weights)
            for sign, each in ((1, own), (-1, other))
        )

    drawn = bootstrap.resampled(np.random.default_rng(3), 60, NUM_EXAMPLES)
    expected = [gain(np.ones(NUM_EXAMPLES)), *np.quantile([gain(each) for each in drawn], (0.025, 0.975))]
    np.testing.assert_allclose(np.stack(found["macro_f1"]), expected, atol=1e-12)
    same = gains.over(ours, ours, settings)
    assert same is not None
    assert all(np.all(np.stack(each) == 0.0) for each in same.values())
    assert gains.over(ours, theirs._replace(examples=[*theirs.examples[1:], "x"]), settings) is None


def write_told(run: Path, found: gains.Told) -> folder.Folder:
    """Write a run that keeps its predictions."""
    write_run(run)
    labels, predicted = (
        np.asarray([each == "yes" for each in row]) for row in (found.labels, found.predicted)
    )
    logits = np.eye(2, dtype=np.float32)[predicted.astype(int)]
    scored = Scored(logits, logits, labels.astype(int), ("no", "yes"))
    split = next(path for path in run.iterdir() if (path / "metrics.json").is_file())
    predictions.write(split / predictions.NAME, predictions.columns("class", scored, found.examples))
    return folder.read(run)


def test_several_runs_say_in_a_sentence_which_is_better_by_how_much(tmp_path: Path) -> None:
    said = {"plain": told(0.4), "good": told(0.02), "alike": told(0.4, seed=1)}
    runs = [write_told(tmp_path / name / "seed0", each) for name, each in said.items()]
    text = page.compared(runs)
    assert "good/seed0 is better than plain/seed0 by 0." in text
    assert "alike/seed0 and plain/seed0 cannot be told apart by accuracy on" in text
    assert f"paired bootstrap over the {NUM_EXAMPLES} examples, 1,000 sets" in text
    assert "plain/seed0 is worse than good/seed0 by" in page.compared([runs[1], runs[0]])
    assert "by jtl compare" not in text
    judged = {"unit": "seed", "metric": "macro_f1", "column": "test"}
    record = {"status": "finished", **judged, "sentences": ["good is better than plain by 0.5."]}
    (tmp_path / "compare.json").write_text(json.dumps(record))
    text = page.compared(runs)
    assert "Over seeds, by jtl compare: macro F1, test<" in text
    assert "good is better than plain by 0.5." in text
    (tmp_path / "compare.json").write_text(json.dumps({**record, "status": "failed"}))
    assert "Over seeds, by jtl compare: macro F1, test (not finished)<" in page.compared(runs)


def test_runs_of_other_examples_or_without_predictions_have_no_gain(tmp_path: Path) -> None:
    first = write_told(tmp_path / "a", told(0.4))
    other = write_told(tmp_path / "b", told(0.1)._replace(examples=["x"] * NUM_EXAMPLES))
    assert "Which is better" not in page.compared([first, other])
    assert "Which is better" not in page.compared([first, folder.read(write_run(tmp_path / "c"))])
    damaged = first.path / next(iter(first.splits)) / predictions.NAME
    damaged.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"predictions.parquet' cannot be read .*restore it, or remove it"):
        page.compared([first, other])
