"""An error inside the loop: the last whole state is saved before it ends the run."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jtl.errors import UserError
from jtl.report import curves
from jtl.training import config, loop
from jtl.training import run as train
from jtl.training.dispatch import Dispatches

pytestmark = pytest.mark.usefixtures("without_pictures")

TINY = {
    "model": {"size": "mini", "image_px": 8, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 16},
    "data": {"name": "digits"},
    "optim": {"learning_rate": 1e-2},
    "train": {"steps": 12, "batch_size": 64, "eval_every": 4, "eval_batch_size": 200, "log_every": 1},
    # Eight devices that share two cores are slow; what needs several asks for them.
    "sharding": {"devices": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize(("place", "step"), [("data", 6), ("evaluation", 8)])
def test_error_inside_the_loop_saves_its_last_whole_state_and_the_repeat_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, step: int
) -> None:
    """No checkpoint is due at step 6; at step 8 one is, behind the evaluation that fails."""
    settings, folder = config.from_dict(TINY), tmp_path / "whole"
    result = train.run(settings, folder)

    def fail(*given: Any) -> Any:
        raise UserError("cannot read 'gone.png'")

    with monkeypatch.context() as patch:
        if place == "data":
            really = Dispatches.spans
            patch.setattr(Dispatches, "spans", lambda *given: _ending(really(*given), step + 1, fail))
        else:
            really = loop.evaluated
            patch.setattr(
                loop, "evaluated", lambda *given: fail() if int(given[1].step) == step else really(*given)
            )
        with pytest.raises(UserError, match=r"cannot read 'gone.png'"):
            train.run(settings, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["4", str(step)]
    again = train.run(settings, tmp_path / "run")
    same = ("status", "steps", "digest", "best", "final")
    assert {name: again[name] for name in same} == {name: result[name] for name in same}
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    series = [curves.read(each / "metrics.jsonl") for each in (folder, tmp_path / "run")]
    assert series[0] == series[1]


def _ending(batches: Any, number: int, fail: Callable[[], Any]) -> Iterator[Any]:
    """Yield the batches before the one of that number, which fails."""
    yield from itertools.islice(batches, number - 1)
    yield fail()
