"""The numbers of a run over its steps: metrics.jsonl (a line a report) and TensorBoard events beside it."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl import files
from jtl.errors import UserError, shortened
from jtl.files import replace_text
from jtl.report.summary import plain

FILE_NAME = "metrics.jsonl"
EVENTS_FOLDER = "tensorboard"
FINAL_PREFIX = "test/"


class Writer:
    """Appends the scalars of a run to its folder; a resumed run goes on where its checkpoint was.

    Lines of later steps than `resume_step` are dropped first: those steps will be run again.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        from tensorboardX import SummaryWriter

        path = folder / FILE_NAME
        if path.exists():
            replace_text(path, kept_lines(path, resume_step))
        # Line-buffered: whatever ends the process, the lines written before are whole.
        self._file = path.open("a", encoding="utf-8", buffering=1)
        # TensorBoard hides the events of steps from `purge_step` on that earlier files hold.
        self._events = SummaryWriter(str(folder / EVENTS_FOLDER), purge_step=resume_step + 1, flush_secs=10)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Report values by name at a step; nan and inf are null in the file and absent from TensorBoard."""
        line = {"step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(plain(line), allow_nan=False) + "\n")
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._events.close()


def kept_lines(path: Path, last_step: int) -> str:
    """Return the lines of a metrics file up to a step, without the unfinished one a killed process leaves.

    Those of the final report are left out, too: a run that goes on comes to its report again.

    Raises:
        UserError: a line is no report.
    """
    kept = (line for line, report in reports(path) if report["step"] <= last_step and not is_final(report))
    return "".join(kept)


def reports(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the whole lines of a metrics file, each with what it reports: a step, and numbers by name.

    Raises:
        UserError: a line is no report.
    """
    content = path.read_bytes()
    found = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].split(b"\n")[:-1], start=1):
        try:
            text = line.decode()
            report = files.parsed(text)
            is_right = files.NUMBERS[1](report) and files.COUNT[1](report.get("step"))
        except (ValueError, RecursionError):
            text, report, is_right = repr(line), {}, False
        if not is_right:
            raise UserError(
                f"{path}:{number} is {shortened(text)!r}; expected a JSON object with a step and numbers; "
                f"remove the line"
            )
        found.append((f"{text}\n", report))
    return found


def is_final(line: Mapping[str, object]) -> bool:
    """Return whether a line of a metrics file holds nothing but what the final report measured.

    >>> is_final({"step": 9, "time": 1.5, "test/loss": 0.5}), is_final({"step": 9, "val/loss": 0.5})
    (True, False)
    """
    names = line.keys() - {"step", "time"}
    return bool(names) and all(name.startswith(FINAL_PREFIX) for name in names)
