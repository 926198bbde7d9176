"""Steps whose loss or gradient is not finite: which examples they had, and how many of them a run may skip.

Such a step leaves everything but its own number as it was (see `step`), so it is skipped already when the
host hears of it: here it is said, counted, and ends the run where there were too many. They stand in a file
of the run folder, those of steps that a resumed run makes again left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl import distributed, files
from jtl.data.planned import planned_batches
from jtl.errors import at_end, counted, shown
from jtl.report import summary
from jtl.strategies.contract import TRAIN
from jtl.training import dispatch, notes
from jtl.training.checkpoint_faults import Diverged
from jtl.training.ready import Run

NAME, STEPS = "nonfinite.json", "steps"
# Examples and steps that a line names; the file has all.
MAX_NAMED = 3
ENTRIES: files.Kind = (
    "a list of objects with a step",
    lambda value: isinstance(value, list) and all(_is_entry(each) for each in value),
)


class Skips:
    """The steps that a run has skipped, of which it may have `train.skip_nonfinite`.

    `start` is the step it goes on from.
    """

    def __init__(self, ready: Run, start: int) -> None:
        self._ready, self._path = ready, ready.plan.folder / NAME
        self._most = ready.plan.settings.train.skip_nonfinite
        self._entries: list[dict[str, Any]] = distributed.told(
            f"{self._path}", lambda: _kept(self._path, start)
        )
        if self._entries:
            notes.say(ready, f"{_steps(self.steps)} skipped before: not finite, see {NAME}")

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were skipped, rising."""
        return tuple(each["step"] for each in self._entries)

    def take(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step; say so where they are not finite.

        Raises:
            Diverged: more steps are not finite than may be.
        """
        before, examples = self.steps, examples_of(self._ready, step)
        told = {name: str(values[name]) for name in ("loss", "grad_norm")}
        self._entries.append({"step": step, **told, "examples": examples})
        if distributed.is_writer():
            summary.write_json(self._path, {STEPS: self._entries})
        found = f"the loss is {told['loss']} and the gradient norm {told['grad_norm']} at step {step}"
        whose = f"{_named(examples[TRAIN])}, all in {NAME}"
        if len(before) < self._most:
            notes.say(
                self._ready,
                f"{found}: it is skipped, {len(before) + 1} of at most {self._most} "
                f"(train.skip_nonfinite); its examples: {whose}",
            )
            return
        known = f", after {_steps(before)} skipped" if before else ""
        raise Diverged(
            f"{found}{known}; expected finite numbers. Its examples: {whose}. The checkpoints before it are "
            f"kept; look at these examples, allow more steps to be skipped (train.skip_nonfinite, now "
            f"{self._most}) and repeat the command, or lower optim.learning_rate or raise optim.warmup and "
            f"start with another --workdir"
        )


def examples_of(ready: Run, step: int) -> dict[str, list[str]]:
    """Return by stream what the sources call the examples of a step, those of all processes together."""
    found = {}
    for name in (TRAIN, *ready.plan.built.parts.strategy.streams):
        source, drawn = ready.feed.streams[name], dispatch.drawn_by(ready, name)
        batches = planned_batches(
            source,
            batch_size=drawn.batch_size,
            seed=drawn.seed,
            start_step=step - 1,
            sampling=drawn.sampling,
            config=ready.plan.settings.inputs,
        )
        with at_end(batches.close):
            found[name] = [source.describe(row) for row in next(batches)["id"].tolist()]
    return found


def _kept(path: Path, start: int) -> list[dict[str, Any]]:
    """Return what the file says of the steps up to `start`, and leave nothing else in it.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return []
    entries = files.read_record(path).get(STEPS, ENTRIES)
    kept = [each for each in entries if each["step"] <= start]
    if kept != entries:
        summary.write_json(path, {STEPS: kept})
    return kept


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and files.COUNT[1](value.get("step"))


def _named(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    text = ", ".join(shown(each) for each in names[:MAX_NAMED])
    return f"{text} and {more:,} more" if more > 0 else text


def _steps(steps: tuple[int, ...]) -> str:
    """Return how many steps there are, and which, as the beginning of a sentence's end.

    >>> _steps((3,)), _steps((3, 9)), _steps((1, 2, 3, 4))
    ('step 3 was', 'steps 3, 9 were', '4 steps (1, 2, 3, …) were')
    """
    if len(steps) == 1:
        return f"step {steps[0]} was"
    text = ", ".join(str(each) for each in steps[:MAX_NAMED])
    if len(steps) <= MAX_NAMED:
        return f"steps {text} were"
    return f"{counted(len(steps), 'steps')} ({text}, …) were"
