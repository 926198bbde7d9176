"""Verbs: what a user asks of the command line, one file or folder each."""

from jtl.verbs import (
    checkpoint,
    estimate,
    evaluate,
    explain,
    export,
    features,
    predict,
    report,
    serve,
    train,
    weights,
)
from jtl.verbs.bench import bench
from jtl.verbs.compare import compare
from jtl.verbs.contract import Verb
from jtl.verbs.few_shot import few_shot
from jtl.verbs.fuse import fuse
from jtl.verbs.lr_find import lr_find
from jtl.verbs.rank import rank
from jtl.verbs.tune import tune

VERBS: dict[str, Verb] = {
    "train": train.VERB,
    "compare": compare.VERB,
    "evaluate": evaluate.VERB,
    "predict": predict.VERB,
    "explain": explain.VERB,
    "report": report.VERB,
    "features": features.VERB,
    "tune": tune.VERB,
    "rank": rank.VERB,
    "lr-find": lr_find.VERB,
    "few-shot": few_shot.VERB,
    "export": export.VERB,
    "serve": serve.VERB,
    "fuse": fuse.VERB,
    "weights": weights.VERB,
    "checkpoint": checkpoint.VERB,
    "bench": bench.VERB,
    "estimate": estimate.VERB,
}
