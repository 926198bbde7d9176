"""The study of a search: its trials in a SQLite file of Optuna's, drawn so that who resumes draws the same.

What a trial is to try hangs on the trials that are finished, the seed, its number and the name of the setting
alone: no state of a sampler is lost with the process that had it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError, nearest, shown
from jtl.verbs.tune.space import CHOICE, INT, LOG, LOG_INT, Dimension

if TYPE_CHECKING:
    import optuna

FILE, NAME, ABOUT = "study.db", "tune", "about"
# Trials at random before the first is drawn by what others found, and before the first is given up.
NUM_RANDOM, NUM_WHOLE = 8, 4
# What an extra's package is missing for.
MISSING = "jtl tune needs Optuna, which is not installed; pip install 'jtl[tune]'"


def check_package() -> None:
    """Raise UserError where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError(MISSING) from error


def opened(
    folder: Path, about: Mapping[str, Any], pruner: str, seed: int, *, is_maximized: bool
) -> "optuna.Study":
    """Open the study of a folder, or begin one; `about` is what it searches.

    Raises:
        UserError: the folder's study is of something else, or the pruner is none.
    """
    import optuna

    if pruner not in PRUNERS:
        raise UserError(f"--pruner is {pruner!r}; nearest: {nearest(pruner, PRUNERS)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / FILE).absolute()}",
        study_name=NAME,
        sampler=_sampler(seed),
        pruner=PRUNERS[pruner](),
        direction="maximize" if is_maximized else "minimize",
        load_if_exists=True,
    )
    text = json.dumps(about, sort_keys=True)
    known = study.user_attrs.get(ABOUT)
    if known is None:
        study.set_user_attr(ABOUT, text)
    elif known != text:
        changed = _difference(json.loads(known), json.loads(text))
        raise UserError(
            f"--out {str(folder)!r} holds another search ({changed}); give another --out, or repeat its "
            f"command"
        )
    return study


def values(trial: "optuna.Trial", dimensions: Sequence[Dimension]) -> dict[str, float | str]:
    """Return what a trial tries, by name; what was drawn before stays."""
    return {each.name: _drawn(trial, each) for each in dimensions}


def importance(study: "optuna.Study") -> dict[str, float]:
    """Return how much of the spread of the results each setting explains (fANOVA); {} of too few trials."""
    import optuna

    whole = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if len(whole) < NUM_WHOLE or len({each.value for each in whole}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _drawn(trial: "optuna.Trial", each: Dimension) -> float | str:
    if each.kind == CHOICE:
        return trial.suggest_categorical(each.name, each.choices)
    if each.kind in (INT, LOG_INT):
        return trial.suggest_int(each.name, int(each.low), int(each.high), log=each.kind == LOG_INT)
    return trial.suggest_float(each.name, each.low, each.high, log=each.kind == LOG)


def _sampler(seed: int) -> Any:
    import optuna

    class Seeded(optuna.samplers.BaseSampler):
        """Tree-structured Parzen estimators (Bergstra et al. 2011), seeded anew for every value."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            digest = hashlib.sha256(f"{seed}/{trial.number}/{param_name}".encode()).digest()
            inner = optuna.samplers.TPESampler(
                seed=int.from_bytes(digest[:4], "big"),
                n_startup_trials=NUM_RANDOM,
                multivariate=False,
                constant_liar=False,
            )
            return inner.sample_independent(study, trial, param_name, param_distribution)

    return Seeded()


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the first thing in which two searches differ; settings are those of one more level."""
    for name in sorted(old.keys() | new.keys()):
        one, other = old.get(name), new.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping) and one != other:
            return f"{name}.{_difference(one, other)}"
        if one != other:
            return f"{name}: {shown(one)} -> {shown(other)}"
    return ""


def _median() -> Any:
    import optuna

    return optuna.pruners.MedianPruner(n_startup_trials=NUM_WHOLE, n_warmup_steps=1)


def _hyperband() -> Any:
    import optuna

    return optuna.pruners.HyperbandPruner()


def _none() -> Any:
    import optuna

    return optuna.pruners.NopPruner()


PRUNERS: dict[str, Callable[[], Any]] = {"median": _median, "hyperband": _hyperband, "none": _none}
