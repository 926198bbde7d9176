"""The verb `jtl train`: fine-tune by a few words, or fine-tune, probe or pretrain by a config file."""

import argparse
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jtl import distributed, runtime
from jtl.errors import UserError
from jtl.verbs import auto, subject
from jtl.verbs.contract import Overrides, Verb, say_next, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    subject.add_arguments(parser)
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        metavar="M",
        help="or as long as fits, all in all (train.minutes)",
    )
    parser.add_argument(
        "--workdir", default="", help="run folder; the same command on the same folder resumes it"
    )
    distributed.add_arguments(parser)
    parser.epilog = "Any setting: --config.SECTION.NAME=VALUE, such as --config.optim.learning_rate=1e-3"


def run(
    *,
    config: str = "",
    data: str = "",
    weights: str = "",
    strategy: str = "",
    epochs: float = 0.0,
    minutes: float = 0.0,
    weights_in: str = "",
    workdir: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Train by a config file, or on data by the recipe of a strategy; or resume the run folder.

    Return what summary.json says.

    Raises:
        UserError: the folder belongs to another configuration, or configuration, data and weights do not fit.
    """
    return trained(
        config=config,
        data=data,
        weights=weights,
        strategy=strategy,
        epochs=epochs,
        minutes=minutes,
        weights_in=weights_in,
        workdir=workdir,
        overrides=overrides,
    )[0]


def trained(
    *,
    config: str = "",
    data: str = "",
    weights: str = "",
    strategy: str = "",
    epochs: float = 0.0,
    minutes: float = 0.0,
    weights_in: str = "",
    workdir: str = "",
    overrides: Overrides = (),
    began: float | None = None,
) -> tuple[dict[str, Any], Path]:
    """Do what `run` does, and return what summary.json says, and the run folder.

    `began` is when the command did, on the clock `time.monotonic` (None: now).
    """
    what = subject.Subject(config, data, weights, strategy, epochs, weights_in)
    subject.check(what)
    overrides = [*overrides, *_of_minutes(minutes, epochs)]
    if "://" in workdir:
        raise UserError(
            f"--workdir is {workdir!r}; expected a folder that this machine has; what keeps a copy of it "
            f"there: --config.train.mirror={workdir}"
        )
    folder = Path(workdir) if workdir else None
    from jtl.training import shared

    # Before jax is imported and weights are fetched: who comes second hears it at once.
    with nullcontext() if folder is None else shared.owned(folder, _say, by="command"):
        from jtl.explain import overlays
        from jtl.training import config as configs
        from jtl.training import run as train

        for line in configs.repeated(overrides):
            _say(line)
        said: list[str] = []

        def tell(line: str) -> None:
            # The run says what was chosen, and keeps it.
            (said.append if line.startswith(auto.CHOSEN) else _say)(line)

        settings = subject.settings(what, overrides, folder, tell)
        folder = folder or train.run_folder(settings, config or Path(data).name)
        shared.log_apart(folder)
        return train.run(settings, folder, explain=overlays.of_run, began=began, said=said), folder


def _of_minutes(minutes: float, epochs: float) -> Overrides:
    """Return the setting that `--minutes` is short for.

    Raises:
        UserError: it is no time, or stands beside another length.
    """
    if not minutes:
        return ()
    if not 0 < minutes < float("inf"):
        raise UserError(f"--minutes is {minutes:g}; expected a positive number, such as 10")
    if epochs:
        raise UserError(f"--minutes {minutes:g} and --epochs {epochs:g} are both given; expected one of them")
    return [("train.minutes", f"{minutes:g}")]


def _say(line: str) -> None:
    if distributed.is_writer():
        sys.stderr.write(f"{line}\n")


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl.report import goodput

    began = time.monotonic() - goodput.process_seconds()
    distributed.begin(distributed.given_by(args))
    summary, folder = trained(
        config=args.config,
        data=args.data,
        weights=args.weights,
        strategy=args.strategy,
        epochs=args.epochs,
        minutes=args.minutes,
        weights_in=args.weights_in,
        workdir=args.workdir,
        overrides=overrides,
        began=began,
    )
    is_writer = distributed.is_writer()
    if is_writer:
        show(args, summary)
    if summary["status"] == "preempted":
        return runtime.PREEMPTED_EXIT_CODE
    if not is_writer:
        return 0
    say_next(
        ["jtl", "predict", "--run", str(folder), "FILES"],
        ["jtl", "evaluate", "--run", str(folder), "--data", "DATA"],
        ["jtl", "serve", "--run", str(folder)],
        page=str(folder / "report.html"),
    )
    return 0


VERB = Verb("fine-tune on your data, or train by a config file", add_arguments, _command, goes_on=True)
