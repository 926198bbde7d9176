"""What it takes to fine-tune a candidate here: memory by the compiler, seconds by the forward pass.

The training step of `jtl train DATA --weights SPEC` is compiled for shapes and not run. Its FLOPs, at the
rate at which this machine runs the same model forward, give its seconds.
"""

import tempfile
from pathlib import Path
from typing import Any

from jtl.verbs.contract import Overrides
from jtl.verbs.observed import Rate
from jtl.verbs.rank.candidates import Candidate


def cost(
    candidate: Candidate, data: str, overrides: Overrides, rate: Rate, num_examples: int
) -> dict[str, Any]:
    """Return memory, FLOPs and seconds of fine-tuning everything on so many examples by the usual recipe.

    Raises:
        UserError: the configuration cannot be built.
    """
    from jtl.training import config, recipe
    from jtl.verbs import estimate

    # How targets are smoothed costs nothing, and is not known by all tasks.
    values = {**recipe.values("full", candidate.spec), "data": {"path": data}, "task": {}}
    settings = config.of_values(values, [*overrides, *candidate.overrides])
    with tempfile.TemporaryDirectory(prefix="jtl-rank-", ignore_cleanup_errors=True) as folder:
        settings, found, notes = estimate.built(settings, Path(folder))
        needs = estimate.needs(found)
    size = settings.train.batch_size
    step_seconds = needs["flops"]["step"] * rate.seconds / rate.flops if rate.flops else None
    epoch = None if step_seconds is None else step_seconds * num_examples / size
    return {
        "batch_size": size,
        "memory_bytes": needs["memory"]["total"],
        "parameters": needs["parameters"]["total"],
        "step_flops": needs["flops"]["step"],
        "step_seconds": step_seconds,
        "epoch_seconds": epoch,
        "epochs": settings.train.epochs,
        "notes": notes,
    }
