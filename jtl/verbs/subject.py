"""What is trained, as the command line says it: DATA by the recipe of a strategy, or a config file."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jtl.errors import UserError
from jtl.verbs.contract import Overrides

if TYPE_CHECKING:
    import jtl.training.config

STRATEGY = "full"
# What is trained where nobody names weights, by what the data holds; of the catalogue, or of the hub.
WEIGHTS = {
    "image": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "text": "hf://sentence-transformers/all-MiniLM-L6-v2",
}


class Subject(NamedTuple):
    """DATA with what goes with it, or a config file; "" and 0 are what nobody said."""

    config: str = ""
    data: str = ""
    weights: str = ""
    strategy: str = ""
    epochs: float = 0.0
    weights_in: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say it."""
    parser.add_argument(
        "data", nargs="?", default="", metavar="DATA", help="a folder, a table, a .npz, a .tar"
    )
    parser.add_argument(
        "--weights", default="", metavar="SPEC", help="what to start from (the best at hand for the data)"
    )
    parser.add_argument(
        "--weights-in", default="", metavar="FOLDER", help="choose among the files of weights there, too"
    )
    parser.add_argument(
        "--strategy", default="", metavar="NAME", help="how to transfer, such as lora or probe"
    )
    parser.add_argument("--epochs", type=float, default=0.0, metavar="N", help="passes over the data (15)")
    parser.add_argument(
        "--config",
        default="",
        metavar="FILE[:ARG]",
        help="instead of DATA: a file in configs/, such as vit_ft.py:ti16",
    )


def of_arguments(args: argparse.Namespace) -> Subject:
    """Return what the arguments say."""
    return Subject(**{name: getattr(args, name) for name in Subject._fields})


def words(subject: Subject) -> list[str]:
    """Return the words that say it again, for another command."""
    flags = [("config", subject.config), ("weights", subject.weights), ("strategy", subject.strategy)]
    flags.append(("weights-in", subject.weights_in))
    flags += [("epochs", f"{subject.epochs:g}" if subject.epochs else "")]
    given = [word for name, value in flags if value for word in (f"--{name}", value)]
    return [*([subject.data] if subject.data else []), *given]


def check(subject: Subject) -> None:
    """Check that either data or a config file is given, and what goes with it.

    Raises:
        UserError: it is not so.
    """
    config, data = subject.config, subject.data
    if not config and not data:
        raise UserError("there is nothing to train on; give a folder or a table, or --config FILE")
    if config and data:
        raise UserError(
            f"{data!r} and --config {config!r} are both given; expected one of them (with a config file, "
            f"data is --config.data.path={data})"
        )
    beside = ("weights", "weights_in", "strategy", "epochs")
    if config and (given := [name for name in beside if getattr(subject, name)]):
        raise UserError(
            f"--{given[0].replace('_', '-')} goes with DATA, not with --config; give "
            f"configs/transfer.py:STRATEGY,WEIGHTS, or settings such as --config.train.epochs=10"
        )
    if subject.weights and subject.weights_in:
        raise UserError(
            f"--weights {subject.weights!r} and --weights-in {subject.weights_in!r} are both given; expected "
            f"one"
        )


def settings(
    subject: Subject,
    overrides: Overrides,
    folder: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> "jtl.training.config.Config":
    """Return the configuration of a subject that was checked.

    Raises:
        UserError: it cannot be read, or does not fit.
    """
    from jtl.training import config as configs
    from jtl.training import recipe

    if subject.config:
        return configs.read(subject.config, overrides, folder)
    weights, strategy = _decided(subject, overrides, folder, say or _say)
    values = recipe.values(strategy, weights, subject.epochs or recipe.EPOCHS)
    return configs.of_values({**values, "data": {"path": subject.data}}, overrides, folder)


def _decided(
    subject: Subject, overrides: Overrides, folder: Path | None, say: Callable[[str], None]
) -> tuple[str, str]:
    """Return weights and strategy: as given, as the run folder began with them, or chosen for the data.

    Raises:
        UserError: the data may hold images or texts.
    """
    from jtl.training import config as configs
    from jtl.verbs import auto

    if subject.weights:
        return subject.weights, subject.strategy or STRATEGY
    if folder is not None and configs.has_begun(folder):
        begun = configs.of_folder(folder)
        return begun.model.weights, subject.strategy or begun.strategy.name
    found = auto.chosen(subject.data, subject.strategy, subject.weights_in, overrides, say)
    for line in found.lines:
        say(line)
    return found.weights, found.strategy


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
