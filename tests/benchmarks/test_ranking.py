"""The tables of a measured ranking: what counts as agreement, and what is not there yet."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from benchmarks import ranking


def _vigna(scores: list[float], accuracies: list[float]) -> float:
    """Kendall's tau with hyperbolic weights of both rankings, pair by pair (Vigna 2015, sec. 3)."""

    def of(ranks: np.ndarray) -> float:
        found = np.zeros(3)
        for i in range(len(ranks)):
            for j in range(i):
                weight = 1 / ranks[i] + 1 / ranks[j]
                one, two = np.sign(scores[i] - scores[j]), np.sign(accuracies[i] - accuracies[j])
                found += weight * np.array([one * two, one * one, two * two])
        return found[0] / np.sqrt(found[1] * found[2])

    orders = (rankdata([-each for each in values], "ordinal") for values in (scores, accuracies))
    return float(np.mean([of(each) for each in orders]))


def test_agreement_is_weighted_by_place_in_both_orders() -> None:
    scores, accuracies = [0.9, 0.1, 0.5, 0.3, 0.7], [0.95, 0.2, 0.7, 0.6, 0.5]
    assert ranking.agreement(scores, accuracies) == pytest.approx(_vigna(scores, accuracies), abs=1e-6)
    assert ranking.agreement([1.0, 1.0, 1.0], [0.1, 0.2, 0.3]) is None


def test_table_has_the_sets_that_are_whole_and_marks_what_was_recommended() -> None:
    labels = list(ranking.WEIGHTS)
    values = {label: 0.9 - 0.02 * place for place, label in enumerate(labels)}
    scores = {label: {"probe": value, "leep": None} for label, value in values.items()}
    rank = {"recommended": labels[1], "scores": scores}
    runs = {label: [value, value - 0.02] for label, value in values.items()}
    record = {
        "ranks": {"hymenoptera": rank, "PACS art": rank},
        "accuracy": {"hymenoptera": runs, "PACS art": {**runs, labels[0]: []}},
    }
    accuracies, scored = ranking.tables(record).split("\n\n")
    assert accuracies.splitlines()[0] == "| fine-tuned, % | hymenoptera |"
    assert accuracies.splitlines()[3] == f"| {labels[1]} | **87.0 ± 1.4** |"
    assert scored.splitlines()[2:] == [
        "| `probe` | 1.00 | 1.00 | 0.0 | 1 of 1 |",
        "| `leep` | - | - | - | - |",
    ]


def test_images_drawn_for_training_are_not_those_of_validation(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(2), 20)
    images = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    np.savez(tmp_path / "all.npz", x_train=images, y_train=labels)
    draw = ranking._of_archive(5, 7, ("x_train", "y_train"))
    with np.load(draw(tmp_path / "all.npz", tmp_path)) as drawn:
        train, val = drawn["train_images"][:, 0, 0].tolist(), drawn["val_images"][:, 0, 0].tolist()
        assert np.bincount(drawn["train_labels"]).tolist() == [5, 5]
        assert drawn["train_labels"].tolist() == [each // 20 for each in train]
    assert len(set(train)) == 10
    assert len({*train, *val}) == 24


def test_the_record_and_the_page_say_the_same() -> None:
    if not ranking.RECORD.exists():
        pytest.skip("no record of a ranking yet")
    record = json.loads(ranking.RECORD.read_text())
    assert ranking.tables(record) in ranking.PAGE.read_text(encoding="utf-8")
