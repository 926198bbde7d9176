"""The examples beside the labelled ones: which there are, and whether strategy and data have the same.

`data.target` names those of another domain (`build.open_target`), `data.unlabelled` those without labels that
a strategy learns from.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jtl.data import SOURCES, Source, batch_size
from jtl.data.contract import NO_LABELS, Labels
from jtl.data.files import unlabelled
from jtl.data.tell import is_of_files
from jtl.errors import UserError
from jtl.strategies.contract import TARGET, TRAIN, UNLABELLED
from jtl.training import build, optim, views
from jtl.training.build import Target
from jtl.training.config import Config, input_of
from jtl.training.step import Parts


def open_unlabelled(config: Config) -> Source | None:
    """Open the examples of `data.unlabelled`, whose labels, where they have any, are not read; None: none.

    Of data with splits it is that of training; of data that has a part without labels, that. The data's own
    path is read as the run itself reads it, so that what it validates on stays apart, but for a choice among
    the training examples: it is all of these.

    Raises:
        UserError: they cannot be had.
    """
    path = config.data.unlabelled
    if not path:
        return None
    try:
        is_own = bool(config.data.path) and os.path.abspath(path) == os.path.abspath(config.data.path)
        data = config.data if is_own or not Path(path).is_file() else build.with_data(config, path).data
        if (part := SOURCES[data.name].unlabelled(data)) is not None:
            return part
        if is_own:
            whole = replace(config.data, train_per_class=0, train_fraction=1.0)
            kind = _label_kind(config)
            return build.open_source(replace(config, data=whole), Labels(kind))["train"]
        if Path(path).is_dir() and is_of_files(path):
            return unlabelled((path,), input_of(config.model), path)
        splits = build.open_source(build.with_data(config, path), Labels(NO_LABELS))
    except UserError as error:
        raise UserError(f"config.data.unlabelled: {error}") from error
    return splits.get("train") or next(iter(splits.values()))


def num_examples(unlabelled: Source | None) -> int:
    """Return how many unlabelled examples a strategy may count on."""
    return 1 if unlabelled is None else len(unlabelled)


def named(target: Target | None, others: Source | None) -> dict[str, Source]:
    """Return the examples beside the labelled ones that there are, by the setting that names them."""
    return {
        **({} if target is None else {TARGET: target.stream}),
        **({} if others is None else {UNLABELLED: others}),
    }


def of_batches(parts: Parts, train: Source, beside: Mapping[str, Source]) -> dict[str, Source]:
    """Return the source of each stream of a batch."""
    sources = {TRAIN: train, **beside}
    return {TRAIN: train, **{name: sources[each.of] for name, each in parts.strategy.streams.items()}}


def check(config: Config, parts: Parts, beside: Mapping[str, Source]) -> None:
    """Check that the data has what the strategy learns from, and nothing that it does not.

    Raises:
        UserError: it has not; training examples alone are blended, or targets that cannot be; two views of an
            example would be the same; or a batch does not fit.
    """
    strategy, unit, name = parts.strategy, parts.input.unit, config.strategy.name
    _check_blended(config, parts)
    needed = {stream.of for stream in strategy.streams.values()} - {TRAIN}
    for missing in sorted(needed - beside.keys()):
        raise UserError(
            f"strategy {name!r} {WHY[missing]} unlabelled {unit} and config.data.{missing} is empty; set it "
            f"to their folder or table"
        )
    if UNLABELLED in beside and UNLABELLED not in needed:
        raise UserError(
            f"config.data.unlabelled is {config.data.unlabelled!r} and strategy {name!r} takes no unlabelled "
            f"{unit}; leave it empty, or set a strategy that learns from them, such as "
            f"strategy.name='fix_match'"
        )
    if parts.augment is None and any(stream.is_strong for stream in strategy.streams.values()):
        raise UserError(
            f"train.is_augmented is false and strategy {name!r} learns from two views of each of the {unit}; "
            f"set it to true"
        )
    for stream in strategy.streams:
        # What is varied in a way that these examples cannot be is refused here.
        parts.input.transform(parts.preprocess, views.augment_of(parts, stream))
    if strategy.needs_average and not optim.has_average(config.optim):
        raise UserError(
            f"strategy {name!r} learns from an average of the parameters and optim.ema is "
            f"{config.optim.ema:g}; set optim.ema=0.999"
        )
    rows = sum(views.rows_of(parts, each, config.train.batch_size) for each in (TRAIN, *strategy.streams))
    if strategy.streams:
        setting = "train.batch_size (with all streams of the strategy)"
        batch_size.check(parts.input, parts.preprocess, rows, setting)


def _check_blended(config: Config, parts: Parts) -> None:
    blended = "" if parts.augment is None else parts.input.blended(parts.augment)
    if blended and not parts.task.can_blend:
        raise UserError(
            f"{blended}, which blends targets; task {config.task.name!r} has none that can be: set it to 0"
        )
    if parts.strategy.streams and blended:
        raise UserError(
            f"{blended}, which blends training {parts.input.unit} alone; expected 0 with strategy "
            f"{config.strategy.name!r}, which has others beside them: set it to 0"
        )


def _label_kind(config: Config) -> str:
    return build.TASKS[config.task.name].label_kind


# What a strategy does with the examples of a setting.
WHY = {TARGET: "adapts to", UNLABELLED: "learns from"}
