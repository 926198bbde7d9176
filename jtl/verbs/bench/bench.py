"""The verb `jtl bench`: what a configuration costs on this machine, each part by itself and all together.

The feed, the compiled step and the loop are those of `jtl train`. Nothing that is measured is kept but the
record.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError
from jtl.verbs.contract import Overrides, Verb, check_at_least, override_words, say_next, show

if TYPE_CHECKING:
    import jtl.training.config
    import jtl.verbs.bench.measure

STEPS, RUNS = 10, 3
# Of both, one after the other: each pair has its turn at the machine as it is just then.
STEPS_AGAINST, PAIRS = 2, 5
WARMUP_STEPS = 3
TORCH = "torch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="what to measure, such as vit_ft.py:ti16"
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"steps a run ({STEPS}), or a turn with --against ({STEPS_AGAINST})",
    )
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"runs ({RUNS}), or pairs with --against ({PAIRS})"
    )
    parser.add_argument(
        "--length", type=int, default=0, metavar="N", help="cut or fill all texts to so many tokens"
    )
    parser.add_argument("--out", default="", metavar="FILE", help="keep the record (JSON)")
    parser.add_argument(
        "--against", default="", choices=("", TORCH), metavar=TORCH, help="beside PyTorch, alternating"
    )
    parser.add_argument(
        "--modes", default="", metavar="LIST", help="with --against: of train,forward,probe (default: all)"
    )
    parser.add_argument(
        "--ways",
        default="",
        metavar="LIST",
        help='with --against: of "eager contiguous,compiled channels_last", …',
    )
    parser.add_argument(
        "--sweep", default="", metavar="batch_size=N,…", help="the step alone for each of these sizes"
    )
    parser.epilog = "Random weights: --config.model.weights=none. Other sizes: --config.train.batch_size=64"


def run(
    *,
    config: str,
    num_steps: int | None = None,
    runs: int | None = None,
    length: int = 0,
    out: str = "",
    against: str = "",
    modes: Sequence[str] = (),
    ways: Sequence[str] = (),
    sweep: str = "",
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Measure, show a table on stderr, and return the record that `out` keeps.

    By default the feed, the step and the loop of a run are measured; with `against` the step and the forward
    pass beside PyTorch's, in these `modes` and by these of its `ways` (none: all); with `sweep` the step at
    several sizes of a batch.

    Raises:
        UserError: the configuration cannot be run, or a number or a name is none that can be.
    """
    from jtl.training import config as configs
    from jtl.verbs.bench import against_torch, record, sizes, table, whole
    from jtl.verbs.bench.measure import Length

    steps = (STEPS_AGAINST if against else STEPS) if num_steps is None else num_steps
    runs = (PAIRS if against else RUNS) if runs is None else runs
    check_at_least("--steps", steps)
    check_at_least("--runs", runs)
    if against and sweep:
        raise UserError("--against and --sweep are both given; expected one of them")
    for name, listed in (("--modes", modes), ("--ways", ways)):
        if listed and not against:
            raise UserError(f"{name} is {','.join(listed)!r} without --against; add --against {TORCH}")
    if out:
        record.check(out)
    settings = of_length(configs.read(config, overrides), length)
    asked = Length(WARMUP_STEPS, steps, runs)
    with tempfile.TemporaryDirectory(prefix="jtl-bench-", ignore_cleanup_errors=True) as folder:
        if against:
            found = against_torch.measured(settings, Path(folder), asked, modes, ways)
        elif sweep:
            found = sizes.measured(settings, Path(folder), asked, sizes.parsed(sweep))
        else:
            found = whole.measured(settings, Path(folder), asked)
    result = {
        **record.surroundings(),
        **record.described(settings),
        "warmup_steps": asked.warmup,
        "steps": asked.steps,
        "runs": asked.runs,
        **found,
        "config": configs.to_dict(settings),
    }
    sys.stderr.write(table.text(result))
    if out:
        record.write(out, result)
        sys.stderr.write(f"record: {out}\n")
    return result


def of_length(settings: "jtl.training.config.Config", length: int) -> "jtl.training.config.Config":
    """Return the settings with all texts cut or filled up to so many tokens (0: as they are).

    Raises:
        UserError: the model reads no texts, or the configuration none of that length.
    """
    if not length:
        return settings
    if not hasattr(settings.preprocess, "max_tokens"):
        from jtl.training.config import input_of

        unit = input_of(settings.model).unit
        raise UserError(f"--length is {length}, and all {unit} of a model are of one size; leave it out")
    check_at_least("--length", length)
    limit = settings.preprocess.max_tokens
    if 0 < limit < length:
        raise UserError(f"--length is {length} and preprocess.max_tokens {limit}; expected at most that")
    return replace(
        settings,
        inputs=replace(settings.inputs, buckets=(length,)),
        preprocess=replace(settings.preprocess, max_tokens=length),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _command(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    if args.against:
        from jtl.verbs.bench import against_torch

        against_torch.share_memory()
    found = run(
        config=args.config,
        num_steps=args.steps,
        runs=args.runs,
        length=args.length,
        out=args.out,
        against=args.against,
        modes=_words(args.modes),
        ways=_words(args.ways),
        sweep=args.sweep,
        overrides=overrides,
    )
    show(args, found)
    say_next(*_following(args, overrides, found))
    return 0


def _following(args: argparse.Namespace, overrides: Overrides, found: dict[str, Any]) -> list[list[str]]:
    """Return the commands that come next: the best batch, then the whole run at it, then what it needs."""
    size = "train.batch_size"
    same = ["--config", args.config, *override_words(overrides, without=size)]
    lengths = ["--length", str(args.length)] if args.length else []
    batch = found["best"]["batch_size"] if args.sweep else found["config"]["train"]["batch_size"]
    chosen = [*same, f"--config.{size}={batch}", *lengths]
    whole, needed = ["jtl", "bench", *chosen], ["jtl", "estimate", *chosen]
    sizes = ",".join(str(each) for each in (max(1, batch // 2), batch, 2 * batch))
    swept = ["jtl", "bench", *same, *lengths, "--sweep", f"batch_size={sizes}"]
    return [whole, needed] if args.sweep else [swept, needed]


VERB = Verb(
    "measure feed, step and loop of a configuration, or its step beside PyTorch's", add_arguments, _command
)
