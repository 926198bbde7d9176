"""The verb `jtl train`: fine-tune, probe or pretrain by a config file."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jtl import owner, runtime
from jtl.verbs.contract import Overrides, Verb, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="a file in configs/, such as vit_ft.py:ti16"
    )
    parser.add_argument(
        "--workdir", default="", help="run folder; the same command on the same folder resumes it"
    )
    parser.epilog = "Any setting: --config.SECTION.NAME=VALUE, such as --config.optim.learning_rate=1e-3"


def run(*, config: str, workdir: str = "", overrides: Overrides = ()) -> dict[str, Any]:
    """Train by a config file, or resume the run folder, and return what summary.json says.

    Raises:
        UserError: the folder belongs to another configuration, or configuration, data and weights do not fit.
    """
    folder = Path(workdir) if workdir else None
    # Before jax is imported and weights are fetched: who comes second hears it at once.
    with nullcontext() if folder is None else owner.owned(folder, _say):
        from jtl.training import config as configs
        from jtl.training import run as train

        for line in configs.repeated(overrides):
            _say(line)
        settings = configs.read(config, overrides, folder)
        return train.run(settings, folder or train.run_folder(settings, config))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    summary = run(config=args.config, workdir=args.workdir, overrides=overrides)
    show(args, summary)
    return runtime.PREEMPTED_EXIT_CODE if summary["status"] == "preempted" else 0


VERB = Verb("fine-tune, probe or pretrain by a config file", add_arguments, _command, goes_on=True)
