"""Reader processes: one that dies is one line, and those of a stopped run end at once."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jtl import signals
from jtl.data import Info, pipeline, workers
from jtl.errors import UserError
from jtl.inputs import image
from jtl.inputs.image import Preprocess


class _Deadly:
    """A source whose third example ends the process that reads it."""

    info = Info("deadly", ("a",))

    def __init__(self, code: int) -> None:
        self.code = code

    def labels(self) -> np.ndarray:
        return np.zeros(len(self), np.int64)

    def describe(self, index: int) -> str:
        return f"deadly[{index}]"

    def fingerprint(self, index: int) -> bytes:
        return bytes([index])

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 2:
            if self.code < 0:
                os.kill(os.getpid(), -self.code)
            os._exit(self.code)
        return {"raw": np.zeros((8, 8, 3), np.uint8), "label": 0, "id": index}


def _batches(code: int) -> pipeline.EvalBatches:
    preprocess = Preprocess(image_px=(8, 8))
    transform = image.INPUT.transform(preprocess, None)
    config = pipeline.Config(threads=1, workers=1)
    return pipeline.eval_batches(
        _Deadly(code), transform, image.INPUT, preprocess=preprocess, batch_size=2, config=config
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-9, r"was killed \(signal 9, SIGKILL\): the memory may not suffice; lower inputs.workers \(2\)"),
        (-7, r"was killed \(signal 7, SIGBUS\): the shared memory \(/dev/shm\) may not suffice; lower"),
        (-15, r"was killed \(signal 15, SIGTERM\); lower inputs.workers \(2\) or inputs.prefetch"),
        (3, r"ended by itself \(exit code 3; its own lines are above\); lower inputs.workers \(2\)"),
    ],
)
def test_what_became_of_a_reader_is_said_with_what_to_change(code: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        raise UserError(workers.dead_worker(code, 2))


@pytest.mark.slow
def test_reader_that_is_killed_ends_the_reading_in_one_line() -> None:
    with pytest.raises(UserError, match=r"a reader process was killed \(signal 9, SIGKILL\)"):
        list(_batches(-9))
    assert multiprocessing.active_children() == []


class _Stuck:
    """An iterator whose end waits for a reader that never comes."""

    def __init__(self) -> None:
        self.waits = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def close(self) -> None:
        self.waits.wait(60)


def test_stopped_process_does_not_wait_for_its_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CLOSING_SECONDS", 0.0)
    stuck = _Stuck()
    with signals.listening() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        workers.close(stuck)
    assert not stuck.waits.is_set()
    stuck.waits.set()
