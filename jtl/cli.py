"""The command line: `jtl VERB`, exit codes, and the one line a user sees when something can be mended.

Nothing heavy is imported before a verb runs, so that `--help` is immediate.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence

from jtl import runtime
from jtl.errors import UserError
from jtl.verbs import VERBS
from jtl.verbs.contract import add_verbs

OVERRIDE = "--config."
INTERRUPTED_EXIT_CODE = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 the user can mend it, 75 preempted and saved, 1 a bug."""
    words, overrides = split_overrides(list(sys.argv[1:] if argv is None else argv))
    args = _parser().parse_args(words)
    runtime.prepare()
    try:
        code = VERBS[args.verb].command(args, overrides)
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
    add_verbs(parser, "verb", VERBS)
    return parser


def split_overrides(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the words without `--config.NAME=VALUE` or `--config.NAME VALUE`, and those as pairs.

    >>> split_overrides(["train", "--config", "a.py", "--config.train.seed=1", "--config.baseline"])
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
