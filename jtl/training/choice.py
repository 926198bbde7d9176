"""Which metric picks the best step of a run."""

from collections.abc import Mapping

from jtl.data import Source
from jtl.errors import UserError, nearest
from jtl.strategies.contract import TARGET
from jtl.tasks import TASKS
from jtl.training import adaptation, build
from jtl.training.build import Built, Target
from jtl.training.config import Config


def monitor(settings: Config, built: Built, splits: Mapping[str, Source], target: Target | None) -> str:
    """Return the metric that picks the best step: one without labels where the run adapts to a target.

    Raises:
        UserError: there is no metric of the name the settings give, nothing to measure it on, or it would
            choose by labels of the target.
    """
    kind = TASKS[settings.task.name]
    criteria = adaptation.CRITERIA if target is not None and build.has_classes(settings) else ()
    streams = built.parts.strategy.streams.values()
    is_adapting = any(stream.of == TARGET for stream in streams) and bool(criteria)
    chosen = settings.train.monitor or (adaptation.IM if is_adapting else kind.monitor)
    if chosen in criteria:
        _check_criterion(chosen, target)
        return chosen
    if chosen.startswith(adaptation.PREFIX):
        raise UserError(
            f"train.monitor is {chosen!r}; expected a metric of the validation split, or of a target "
            f"(config.data.target) with classes one that needs no labels: {', '.join(adaptation.CRITERIA)}"
        )
    if "val" not in splits and (settings.train.patience or settings.train.monitor):
        raise UserError(
            "train.patience and train.monitor need a validation split; set data.val_fraction above 0"
        )
    if chosen not in kind.maximized:
        raise UserError(
            f"train.monitor {chosen!r} is no metric of this task; nearest: {nearest(chosen, kind.maximized)}"
        )
    unmeasured = built.parts.task.unmeasured
    if chosen in unmeasured:
        known = [name for name in kind.maximized if name not in unmeasured]
        raise UserError(
            f"train.monitor {chosen!r} is not measured: {unmeasured[chosen]}; nearest: "
            f"{nearest(chosen, known)}"
        )
    return chosen


def _check_criterion(chosen: str, target: Target | None) -> None:
    assert target is not None, "criteria are of a target"
    if chosen == adaptation.SND and len(target.evaluation) < adaptation.MIN_NEIGHBOURS:
        raise UserError(
            f"train.monitor is {chosen!r} and config.data.target has {len(target.evaluation)} example to "
            f"measure, which has no neighbours; expected {adaptation.MIN_NEIGHBOURS} or more: add some, or "
            f"set train.monitor={adaptation.IM!r}"
        )
