"""The command line: `jtl VERB`, exit codes, and the one line a user sees when something can be mended.

Nothing heavy is imported before a verb runs, so that `--help` is immediate.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jtl.errors import UserError

OVERRIDE = "--config."
INTERRUPTED_EXIT_CODE = 130


class Verb(NamedTuple):
    """One verb: its help line, its arguments, and what it does with (arguments, overrides) → exit code."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, list[tuple[str, str]]], int]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 the user can mend it, 75 preempted and saved, 1 a bug."""
    words, overrides = _split_overrides(list(sys.argv[1:] if argv is None else argv))
    args = _parser().parse_args(words)
    try:
        code = VERBS[args.verb].run(args, overrides)
    except (UserError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        sys.stderr.write(f"jtl: error: {_one_line(str(error))}\n")
        code = 2
    except KeyboardInterrupt:
        sys.stderr.write("jtl: interrupted\n")
        code = INTERRUPTED_EXIT_CODE
    sys.stdout.flush()
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jtl", description="Transfer learning in JAX.", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.help, description=verb.help, allow_abbrev=False)
        verb.add_arguments(sub)
        sub.add_argument(
            "--json", action="store_true", help="print one JSON object on stdout, everything else on stderr"
        )
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _split_overrides(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the words without `--config.NAME=VALUE` or `--config.NAME VALUE`, and those as pairs.

    >>> _split_overrides(["train", "--config", "a.py", "--config.train.seed=1", "--config.baseline"])
    (['train', '--config', 'a.py'], [('train.seed', '1'), ('baseline', 'true')])
    """
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith(OVERRIDE):
            rest.append(word)
            continue
        name, has_value, value = word.removeprefix(OVERRIDE).partition("=")
        if not has_value:
            follows = index < len(words) and not words[index].startswith("--")
            value = words[index] if follows else "true"
            index += follows
        overrides.append((name, value))
    return rest, overrides


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="a file in configs/, such as vit_ft.py:ti16"
    )
    parser.add_argument(
        "--workdir", default="", help="run folder; the same command on the same folder resumes it"
    )
    parser.epilog = "Any setting: --config.SECTION.NAME=VALUE, such as --config.optim.learning_rate=1e-3"


def _train(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl import runtime

    runtime.prepare()
    from jtl import config, train

    resolved = config.read(args.config, overrides)
    summary = train.run(resolved, train.run_folder(resolved, args.config, args.workdir))
    if args.json:
        _print_json(summary)
    return runtime.PREEMPTED_EXIT_CODE if summary["status"] == "preempted" else 0


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", metavar="FOLDER", help="a run folder of jtl train")
    model.add_argument(
        "--weights",
        metavar="SPEC",
        help="pretrained weights with their own head: file, hf://, https://, gs://",
    )
    parser.add_argument(
        "--data", default="", metavar="PATH", help="folder, table or .npz (default: the run's own data)"
    )
    parser.add_argument(
        "--split", default="", help="train, val or test (default: test, else val, else all there is)"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time")
    parser.add_argument(
        "--out", default="", metavar="FOLDER", help="also write metrics.json and confusion.png there"
    )
    parser.epilog = "--config.SECTION.NAME=VALUE changes a setting, such as --config.data.max_unreadable=5"


def _evaluate(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl import runtime

    runtime.prepare()
    from jtl import evaluate

    request = evaluate.Request(
        args.run, args.weights, args.data, args.split, args.batch_size, args.out, overrides
    )
    result = evaluate.run(request)
    if args.json:
        _print_json(result)
    return 0


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="what to time, such as vit_ft.py:ti16"
    )
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="steps to time after two of warm-up"
    )
    parser.epilog = "Random weights: --config.model.weights=none. Other sizes: --config.train.batch_size=64"


def _bench(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl import runtime

    runtime.prepare()
    from jtl import bench, config

    result = bench.run(bench.Request(config.read(args.config, overrides), args.steps))
    if args.json:
        _print_json(result)
    return 0


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


VERBS: dict[str, Verb] = {
    "train": Verb("fine-tune, probe or pretrain by a config file", _add_train, _train),
    "evaluate": Verb("measure a run, or pretrained weights, on labelled data", _add_evaluate, _evaluate),
    "bench": Verb("time the training step of a configuration", _add_bench, _bench),
}
