"""What a report shows beside its examples, and what runs are called beside each other."""

from pathlib import Path

from jtl.report import folder, gallery, page
from tests.report.test_page import write_run


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
