"""The verb `jtl train`: fine-tune by a few words, or fine-tune, probe or pretrain by a config file."""

import argparse
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl import distributed, runtime
from jtl.errors import UserError
from jtl.verbs.contract import Overrides, Verb, say_next, show

if TYPE_CHECKING:
    import jtl.training.config

STRATEGY = "full"
# What is trained where nobody names weights, by what the data holds; of the catalogue, or of the hub.
WEIGHTS = {
    "image": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "text": "hf://sentence-transformers/all-MiniLM-L6-v2",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "data", nargs="?", default="", metavar="DATA", help="a folder, a table, a .npz, a .tar"
    )
    parser.add_argument("--weights", default="", metavar="SPEC", help="what to start from (a good default)")
    parser.add_argument(
        "--strategy", default="", metavar="NAME", help=f"how to transfer, such as lora or probe ({STRATEGY})"
    )
    parser.add_argument("--epochs", type=float, default=0.0, metavar="N", help="passes over the data (15)")
    parser.add_argument(
        "--config",
        default="",
        metavar="FILE[:ARG]",
        help="instead of DATA: a file in configs/, such as vit_ft.py:ti16",
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
    workdir: str = "",
    overrides: Overrides = (),
    began: float | None = None,
) -> tuple[dict[str, Any], Path]:
    """Do what `run` does, and return what summary.json says, and the run folder.

    `began` is when the command did, on the clock `time.monotonic` (None: now).
    """
    _check(config, data, {"--weights": weights, "--strategy": strategy, "--epochs": epochs})
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
        if data:
            settings = _by_recipe(data, weights, strategy, epochs, overrides, folder)
        else:
            settings = configs.read(config, overrides, folder)
        folder = folder or train.run_folder(settings, config or Path(data).name)
        shared.log_apart(folder)
        return train.run(settings, folder, explain=overlays.of_run, began=began), folder


def _check(config: str, data: str, words: dict[str, Any]) -> None:
    """Raise UserError unless either data or a config file is given, and what goes with it."""
    if not config and not data:
        raise UserError("there is nothing to train on; give a folder or a table, or --config FILE")
    if config and data:
        raise UserError(
            f"{data!r} and --config {config!r} are both given; expected one of them (with a config file, "
            f"data is --config.data.path={data})"
        )
    if config and (given := [name for name, value in words.items() if value]):
        raise UserError(
            f"{given[0]} goes with DATA, not with --config; give configs/transfer.py:STRATEGY,WEIGHTS, or "
            f"settings such as --config.train.epochs=10"
        )


def _by_recipe(
    data: str, weights: str, strategy: str, epochs: float, overrides: Overrides, folder: Path | None
) -> "jtl.training.config.Config":
    from jtl.training import config as configs
    from jtl.training import recipe

    values = recipe.values(strategy or STRATEGY, weights or _default(data), epochs or recipe.EPOCHS)
    return configs.of_values({**values, "data": {"path": data}}, overrides, folder)


def _default(data: str) -> str:
    """Return weights for what a path holds.

    Raises:
        UserError: it may hold images or texts.
    """
    from jtl.data import SOURCES, tell

    kind = tell.kind_of(data)
    if SOURCES[kind].holds not in WEIGHTS:
        raise UserError(
            f"{data!r} may hold images or texts; say which by --weights, such as "
            f"{' or '.join(WEIGHTS.values())}"
        )
    found = WEIGHTS[SOURCES[kind].holds]
    _say(f"no --weights are given: {found}")
    return found


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
