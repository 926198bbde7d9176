"""A run that goes on under other versions, on other devices or cores says so: its last bits will differ."""

from pathlib import Path
from typing import Any

import jax
import pytest

from jtl.report import summary
from jtl.training import meta
from jtl.weights.run_folder import CHECKPOINTS_NAME


def begun(folder: Path, **changes: Any) -> Path:
    """A run folder with a checkpoint that was begun here, but for the changes."""
    (folder / CHECKPOINTS_NAME).mkdir()
    summary.write_json(folder / "meta.json", {**meta.machine(), **changes})
    return folder


def test_run_that_goes_on_where_it_began_says_nothing(tmp_path: Path) -> None:
    assert meta.moved(begun(tmp_path)) == []


def test_run_of_an_older_release_that_keeps_less_says_nothing(tmp_path: Path) -> None:
    begun(tmp_path)
    summary.write_json(tmp_path / "meta.json", {})
    assert meta.moved(tmp_path) == []


def test_new_run_says_nothing(tmp_path: Path) -> None:
    assert meta.moved(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_cores": 4096}, "num_cores 4096, now"),
        ({"device": "3 x sundial"}, "device '3 x sundial', now '8 x cpu'"),
        ({"versions": {"jax": "0.1"}}, f"jax '0.1', now '{jax.__version__}'"),
    ],
    ids=["cores", "device", "version"],
)
def test_run_that_goes_on_elsewhere_says_what_changed(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    (line,) = meta.moved(begun(tmp_path, **changes))
    assert line.startswith(meta.RESUMED)
    assert expected in line
    assert line.endswith("to rounding, not bit for bit")
