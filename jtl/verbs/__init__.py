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
    train,
    weights,
)
from jtl.verbs.bench import bench
from jtl.verbs.compare import compare
from jtl.verbs.contract import Verb
from jtl.verbs.fuse import fuse

VERBS: dict[str, Verb] = {
    "train": train.VERB,
    "compare": compare.VERB,
    "evaluate": evaluate.VERB,
    "predict": predict.VERB,
    "explain": explain.VERB,
    "report": report.VERB,
    "features": features.VERB,
    "export": export.VERB,
    "fuse": fuse.VERB,
    "weights": weights.VERB,
    "checkpoint": checkpoint.VERB,
    "bench": bench.VERB,
    "estimate": estimate.VERB,
}
