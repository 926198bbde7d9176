"""The tables of measured runs: what is counted, and what is not there yet."""

import json
from pathlib import Path

from benchmarks import transfer
from jtl.training import config
from jtl.verbs.compare import variants
from jtl.verbs.fuse import methods


def _record(folder: Path, status: str = "finished", **target: float) -> None:
    folder.mkdir(parents=True)
    found = {which: {"accuracy": value} for which, value in target.items()}
    (folder / "summary.json").write_text(json.dumps({"status": status, "target": found}))


def test_table_is_of_finished_runs_and_means_are_over_seeds_all_conditions_have(tmp_path: Path) -> None:
    for domain, value in (("art_painting", 0.5), ("cartoon", 0.6), ("sketch", 0.1)):
        for seed in (0, 1):
            numbers = {"last": value + seed / 10, "selected": value, "oracle": 0.9}
            _record(tmp_path / "pacs" / domain / "mcc" / f"seed{seed}", **numbers)
    _record(tmp_path / "pacs" / "sketch" / "mcc" / "seed2", last=0.9, selected=0.9, oracle=0.9)
    _record(tmp_path / "pacs" / "sketch" / "mcc" / "seed3", "preempted", last=0.0, selected=0.0, oracle=0.0)
    header, _, row = transfer.table("pacs", tmp_path).splitlines()
    assert header.startswith("|  | art_painting | cartoon | sketch | mean, last |")
    assert row == ("| `mcc` | 55.0 ± 7.1 | 65.0 ± 7.1 | 40.0 ± 43.6 | 45.0 ± 7.1 | 40.0 ± 0.0 | 90.0 ± 0.0 |")


def test_every_set_is_made_of_comparisons_that_read() -> None:
    for name in transfer.SETS:
        for words in transfer.commands(name, Path("out"), data="images", weights="w.safetensors", seeds=3):
            overrides = [
                tuple(word.removeprefix("--config.").split("=", 1))
                for word in words
                if word.startswith("--config.")
            ]
            base = config.read("configs/vit_ft.py:ti16", overrides)
            chosen = [words[place + 1] for place, word in enumerate(words) if word == "--variant"]
            for each in variants.read(chosen, base):
                assert variants.settings(each, base).train.steps == base.train.steps


def test_what_is_fused_are_the_runs_of_one_seed_and_condition() -> None:
    found = dict(transfer.fusions("hymenoptera", Path("out"), seeds=2))
    assert len(found) == 3 * 2 * 3
    place = Path("out/hymenoptera/50")
    words = found[place / "wise" / "seed1"]
    assert words[:4] == ["fuse", "--runs", str(place / "plain" / "seed1"), "--method"]
    for measured in transfer.SETS.values():
        for each in measured.fused.values():
            count = len(set(each.variants) & set(measured.variants))
            assert count == len(each.variants)
            assert methods.METHODS[each.method].min_runs <= count <= methods.METHODS[each.method].max_runs


def test_a_test_split_is_what_counts_and_validation_where_there_is_none() -> None:
    summary = {"final": {"val/accuracy": 0.5}, "best": {"test/accuracy": 0.25}}
    assert transfer.values(summary, "accuracy") == {"last": 25.0}
    assert transfer.values({**summary, "best": {}}, "accuracy") == {"last": 50.0}
