"""What `jtl compare` is going to run: variants, seeds or folds, and the settings of each run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jtl import owner
from jtl.errors import UserError
from jtl.report.folder import COMPARISON as RESULT
from jtl.training import build, config, rehearsal, streams
from jtl.training.config import Config
from jtl.verbs.compare import tables as comparison
from jtl.verbs.compare import variants
from jtl.verbs.compare.variants import Variant

DEFAULT_SEEDS = "3"


class Plan(NamedTuple):
    """The runs to make: variants, what they differ in ("seed", "fold"), its numbers, and settings by run.

    `column` names the column that decides ("": the first of `comparison.DECISIVE`).
    """

    variants: list[Variant]
    unit: str
    numbers: list[int]
    settings: dict[tuple[int, str], Config]
    folder: Path
    column: str


def make(base: Config, folder: Path, words: Sequence[str], given_seeds: str, folds: int, column: str) -> Plan:
    """Return the plan of variants in words (none: the three usual ones), with `seeds` or `folds` (0: not).

    Raises:
        UserError: a variant is malformed, or seeds and folds are not to be had.
    """
    chosen = variants.read(tuple(words) or variants.defaults(base), base)
    by_label = {each.label: variants.settings(each, base) for each in chosen}
    unit, numbers, at = _repetitions(given_seeds, folds)
    settings = {(number, label): at(own, number) for number in numbers for label, own in by_label.items()}
    return Plan(chosen, unit, numbers, settings, folder, column)


def check(plan: Plan) -> None:
    """Check what can be known before hours of training.

    Raises:
        UserError: there will be nothing to measure on, or the folder holds something else.
    """
    first = next(iter(plan.settings.values()))
    if plan.column and plan.column not in comparison.COLUMNS:
        raise UserError(f"--by is {plan.column!r}; expected one of {', '.join(comparison.COLUMNS)}")
    is_split = first.data.val_fraction > 0 and not first.data.folds
    is_measured = is_split or (first.data.target and first.data.has_target_labels)
    if not is_measured and not {"val", "test"} & build.open_splits(first).keys():
        raise UserError(
            "there is no validation and no test split to compare on; set data.val_fraction above 0"
        )
    if plan.folder.exists() and not plan.folder.is_dir():
        raise UserError(f"--out {str(plan.folder)!r} is a file; expected a folder")
    is_begun = (plan.folder / RESULT).exists()
    if plan.folder.exists() and not is_begun and not owner.is_free(plan.folder):
        raise UserError(f"--out {str(plan.folder)!r} is not empty and holds no {RESULT}; give another --out")
    for (number, label), own in plan.settings.items():
        folder = folder_of(plan, number, label)
        changed = config.conflicts(own, _begun(folder, config.to_dict(own)))
        if changed:
            raise UserError(
                f"run folder {str(folder)!r} was made by other settings ({'; '.join(changed[:4])}); give "
                f"another --out, or the variant {label!r} another label"
            )


def rehearse(plan: Plan) -> None:
    """Build every variant that has not begun once, so that none is found impossible after others trained.

    Raises:
        UserError: one cannot be; it is named.
    """
    number = plan.numbers[0]
    waiting = {
        label: own
        for (each, label), own in plan.settings.items()
        if each == number and not config.has_begun(folder_of(plan, number, label))
    }
    if not waiting:
        return
    # The data is the same for all.
    first = next(iter(waiting.values()))
    splits = build.open_splits(first)
    about = next(iter(splits.values())).info
    target = build.open_target(first, about.label_names, about.reading)
    unlabelled = streams.open_unlabelled(first)
    for label, own in waiting.items():
        try:
            rehearsal.check(own, splits, target, unlabelled)
        except UserError as error:
            raise UserError(f"variant {label!r} cannot be: {error}") from error


def folder_of(plan: Plan, number: int, label: str) -> Path:
    """Return the run folder of a variant's seed or fold."""
    return plan.folder / label / f"{plan.unit}{number}"


def seeds(text: str) -> list[int]:
    """Return the seeds that "3" (0, 1, 2) or "4,7" (those two; "4," is one) mean.

    Raises:
        UserError: they are none, or one is named twice.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds is {text!r}; expected how many, such as 3, or which, such as 0,1,5")
    numbers = [int(part) for part in parts]
    found = numbers if "," in text else list(range(numbers[0]))
    if not found or len(set(found)) != len(found):
        raise UserError(f"--seeds is {text!r}; expected one or more, each once")
    return found


def _repetitions(given_seeds: str, folds: int) -> tuple[str, list[int], Callable[[Config, int], Config]]:
    """Return what the runs of a variant differ in, its numbers, and settings at one of them."""
    if not folds:
        numbers = seeds(given_seeds or DEFAULT_SEEDS)
        return "seed", numbers, lambda own, seed: replace(own, train=replace(own.train, seed=seed))
    if given_seeds:
        raise UserError("--seeds and --folds are both given; expected one of them")
    if folds < 2:
        raise UserError(f"--folds is {folds}; expected 2 or more")
    return (
        "fold",
        list(range(folds)),
        lambda own, fold: replace(own, data=replace(own.data, folds=folds, fold=fold)),
    )


def _begun(folder: Path, default: dict[str, Any]) -> dict[str, Any]:
    """Return the settings a run folder began with, or the default where it did not begin."""
    return config.saved(folder) if config.has_begun(folder) else default
