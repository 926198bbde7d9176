"""The table of speed: from records alone, and complete."""

from typing import Any

from benchmarks import speed
from jtl.verbs.bench import against_torch


def _record(model: str, **changes: Any) -> dict[str, Any]:
    seconds = {
        "jtl": [[0.5], [0.4]],
        "torch eager contiguous": [[0.5], [0.6]],
        "torch compiled contiguous": [[1.0]] * 2,
    }
    return {
        **{"model": model, "batch_size": 16, "dtype": "float32", "platform": "cpu", "cores": 2},
        **{"device": "1 x cpu", "processor": "a processor", "commit": "abc"},
        "versions": {"python": "3.11.7", "jax": "0.10.2", "torch": "2.13.0"},
        "against": {"train": against_torch.compared(seconds)},
        **changes,
    }


def test_table_has_a_row_a_mode_beside_the_fastest_of_pytorch() -> None:
    found = speed.rows([_record("vit ti16"), _record("resnet 18", cores=4)])
    assert found[2] == (
        "| vit ti16, 16, float32 | train | 450 ms | 550 ms, eager contiguous | 1.25 (1.00 to 1.50) of 2 |"
    )
    assert found[4:] == [
        "",
        "On a processor, 2 cores, Python 3.11.7, jax 0.10.2, torch 2.13.0, commit abc.",
        "On a processor, 4 cores, Python 3.11.7, jax 0.10.2, torch 2.13.0, commit abc.",
    ]


def test_page_has_the_marks_and_a_second_table_replaces_the_first() -> None:
    text = speed.PAGE.read_text(encoding="utf-8")
    once = speed.put(text, "| a |")
    assert speed.put(once, "| a |") == once
    assert once.count("| a |") == 1


def test_cases_name_modes_and_files_that_there_are() -> None:
    for name in speed.CASES:
        words = speed.command(name, speed.RECORDS)
        assert (speed.ROOT / words[words.index("--config") + 1].partition(":")[0]).is_file()
        assert words[words.index("--modes") + 1] in against_torch.MODES
