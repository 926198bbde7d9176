"""The command line: `jtl VERB`, exit codes, and the one line a user sees when something can be mended.

Nothing heavy is imported before a verb runs, so that `--help` is immediate.
"""

import argparse
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from jtl.errors import UserError
from jtl.verbs import weights as weights_verbs
from jtl.verbs.contract import Verb, print_json

OVERRIDE = "--config."
INTERRUPTED_EXIT_CODE = 130


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
    _add_verbs(verbs, VERBS)
    return parser


def _add_verbs(parsers: Any, verbs: Mapping[str, Verb]) -> None:
    for name, verb in verbs.items():
        sub = parsers.add_parser(name, help=verb.help, description=verb.help, allow_abbrev=False)
        verb.add_arguments(sub)
        if verb.has_output:
            _add_output(sub)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, everything else on stderr"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


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
    from pathlib import Path

    from jtl import runtime

    runtime.prepare()
    from jtl.training import config
    from jtl.training import run as train

    resolved = config.read(args.config, overrides, Path(args.workdir) if args.workdir else None)
    summary = train.run(resolved, train.run_folder(resolved, args.config, args.workdir))
    if args.json:
        print_json(summary)
    return runtime.PREEMPTED_EXIT_CODE if summary["status"] == "preempted" else 0


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", metavar="FOLDER", help="a run folder of jtl train")
    model.add_argument(
        "--weights",
        metavar="SPEC",
        help="pretrained weights: a name of `jtl weights list`, a file, hf://, https://, gs://",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--data", default="", metavar="PATH", help="folder, table or .npz (default: the run's own data)"
    )
    parser.add_argument(
        "--split", default="", help="train, val or test (default: test, else val, else all there is)"
    )
    parser.add_argument(
        "--out", default="", metavar="FOLDER", help="also write metrics.json and confusion.png there"
    )
    parser.add_argument(
        "--zero-shot", action="store_true", help="make the head of the data's class names (CLIP, SigLIP)"
    )
    parser.epilog = "--config.SECTION.NAME=VALUE changes a setting, such as --config.data.max_unreadable=5"


def _evaluate(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl import runtime

    runtime.prepare()
    from jtl.verbs import evaluate

    request = evaluate.Request(
        args.run,
        args.weights,
        args.zero_shot,
        args.data,
        args.split,
        args.batch_size,
        args.out,
        overrides,
    )
    result = evaluate.run(request)
    if args.json:
        print_json(result)
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
    from jtl.training import config
    from jtl.verbs import bench

    result = bench.run(bench.Request(config.read(args.config, overrides), args.steps))
    if args.json:
        print_json(result)
    return 0


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="what to train, such as vit_ft.py:ti16"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the same command on it goes on")
    parser.add_argument(
        "--variants",
        default="",
        metavar="LIST",
        help='[LABEL=]STRATEGY[:SETTING=VALUE[;…]],… such as scratch,full,"lora:strategy.rank=4" '
        "(default: scratch, probe, and the config's strategy)",
    )
    parser.add_argument("--variant", action="append", default=[], metavar="ONE", help="one more; repeatable")
    parser.add_argument("--seeds", default="", metavar="N", help="how many (default 3), or which: 0,1,5")
    parser.add_argument(
        "--folds", type=int, default=0, metavar="K", help="instead, validate on each K-th of the data in turn"
    )
    parser.add_argument(
        "--by", default="", metavar="COLUMN", help="what decides (target last, val best or test, if there)"
    )
    parser.epilog = "Any setting of all runs: --config.SECTION.NAME=VALUE"


def _compare(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl import runtime

    runtime.prepare()
    runtime.share_compiled()
    from jtl.verbs.compare import compare, variants

    listed = variants.split(args.variants, ",") if args.variants else []
    asked = (*listed, *args.variant)
    request = compare.Request(args.config, overrides, args.out, asked, args.seeds, args.folds, args.by)
    result = compare.run(request)
    if args.json:
        print_json(result)
    return runtime.PREEMPTED_EXIT_CODE if result["status"] == "preempted" else 0


def _add_predict(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument(
        "--classes",
        default="",
        metavar="NAMES",
        help="names of the outputs, or for CLIP and SigLIP the classes to tell apart: a,b,c or a file",
    )
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes to show of each image")
    parser.add_argument("--out", default="", metavar="FILE", help="also write a .csv or .jsonl file")


def _predict(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl import runtime

    runtime.prepare()
    from jtl.verbs import predict

    result = predict.run(
        predict.Request(
            args.run,
            args.weights,
            tuple(args.images),
            args.classes,
            args.top,
            args.batch_size,
            args.out,
            overrides,
        )
    )
    if args.json:
        print_json(result)
    predict.check_readable(result)
    return 0


def _add_features(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--data", required=True, metavar="PATH", help="folder, table or .npz of images")
    parser.add_argument(
        "--features",
        default="",
        metavar="NAMES",
        help="layers such as block6,stage3 (default: pre_head, the backbone's own features)",
    )
    parser.add_argument(
        "--pool", default="mean", metavar="HOW", help="mean, cls or cls_mean of tokens; none keeps whole maps"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="a .npz or .parquet file")


def _features(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl import runtime

    runtime.prepare()
    from jtl.verbs import features

    names = tuple(name.strip() for name in args.features.split(",") if name.strip())
    result = features.run(
        features.Request(
            args.run, args.weights, args.data, names, args.pool, args.batch_size, args.out, overrides
        )
    )
    if args.json:
        print_json(result)
    return 0


def _add_fuse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", nargs="+", required=True, metavar="FOLDER", help="finished run folders")
    parser.add_argument(
        "--method",
        required=True,
        help="uniform or greedy (model soups), wise (WiSE-FT: between the start and the run), ensemble",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="a new run folder; of an ensemble, its predictions"
    )
    parser.add_argument(
        "--start",
        default="",
        metavar="SPEC",
        help="wise: weights or a run folder to interpolate with (default: what the run started from)",
    )
    parser.add_argument(
        "--alphas", default="", metavar="LIST", help="wise: shares of the run to try (default: 0,0.1,…,1)"
    )
    parser.add_argument(
        "--statistics-of",
        default="",
        metavar="FOLDER",
        help="estimate BatchNorm's statistics on these images, which need no labels (AdaBN)",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time")


def _fuse(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from jtl import runtime

    runtime.prepare()
    from jtl.verbs.fuse import fuse

    result = fuse.run(
        fuse.Request(
            tuple(args.runs),
            args.method,
            args.out,
            args.start,
            args.alphas,
            args.statistics_of,
            args.batch_size,
            overrides,
        )
    )
    if args.json:
        print_json(result)
    return 0


def _add_weights(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_verbs(actions, WEIGHTS_VERBS)


def _weights(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    return WEIGHTS_VERBS[args.action].run(args, overrides)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", metavar="SPEC", help="pretrained weights with their own head")
    parser.add_argument(
        "--against", required=True, metavar="DATA", help="labelled images: a folder, a table or a .npz"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at a time")
    parser.set_defaults(run=None, zero_shot=False, data="", split="", out="")


def _verify(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    args.data = args.against
    return _evaluate(args, overrides)


WEIGHTS_VERBS: dict[str, Verb] = {
    **weights_verbs.VERBS,
    "verify": Verb("measure pretrained weights on labelled images", _add_verify, _verify),
}
VERBS: dict[str, Verb] = {
    "train": Verb("fine-tune, probe or pretrain by a config file", _add_train, _train),
    "compare": Verb("train by several strategies, and say which helped", _add_compare, _compare),
    "evaluate": Verb("measure a run, or pretrained weights, on labelled data", _add_evaluate, _evaluate),
    "predict": Verb("classify images by a run or pretrained weights", _add_predict, _predict),
    "features": Verb("write any layer's output for every image", _add_features, _features),
    "fuse": Verb("make one model of several runs: soups, WiSE-FT, ensembles", _add_fuse, _fuse),
    "weights": Verb("list, inspect, convert and verify weights", _add_weights, _weights, has_output=False),
    "bench": Verb("time the training step of a configuration", _add_bench, _bench),
}
