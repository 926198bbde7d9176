"""Whether a run folder has lost the checkpoints it once had: to begin anew there would undo days unasked."""

from pathlib import Path

from jtl.errors import UserError
from jtl.report import summary
from jtl.report.writer import FILE_NAME, reports
from jtl.training.checkpoint_files import set_aside
from jtl.training.settings import Train
from jtl.weights.run_folder import CHECKPOINTS_NAME, SUMMARY_NAME, WEIGHTS_NAME


def check(folder: Path, settings: Train, eval_every: int) -> None:
    """Raise UserError where a folder has no checkpoint and tells of one; `eval_every` in steps."""
    kept = folder / CHECKPOINTS_NAME
    if any(path.name.isdecimal() for path in kept.glob("*")):
        return
    if aside := set_aside(folder):
        raise UserError(
            f"run {str(folder)!r} has no checkpoint left but damaged ones in {str(aside[-1].parent)!r}; put "
            f"a sound one into {str(kept)!r}, or give another --workdir to begin anew"
        )
    found = _told(folder, settings, eval_every)
    if found:
        raise UserError(
            f"{found}, but {str(kept)!r} has no checkpoint; put the checkpoints back, or begin anew: delete "
            f"{str(folder)!r}, or give another --workdir"
        )


def _told(folder: Path, settings: Train, eval_every: int) -> str:
    """Return what tells of a checkpoint that was saved, "" for nothing."""
    told = folder / SUMMARY_NAME
    if told.is_file() and (steps := summary.read(told)["steps"]):
        return f"{str(told)!r} tells of {steps} steps"
    if (folder / WEIGHTS_NAME).exists():
        return f"{str(folder / WEIGHTS_NAME)!r} is of a run that had done all its steps"
    path = folder / FILE_NAME
    last = max((report["step"] for _, report in reports(path)), default=0) if path.is_file() else 0
    # The second save begins once the first is on the disk, and a step behind it once that has begun.
    every = [each for each in (eval_every, settings.checkpoint_every) if each]
    second = sorted({multiple * each for each in every for multiple in (1, 2)})[1]
    return f"{str(path)!r} tells of {last} steps" if last > second else ""
