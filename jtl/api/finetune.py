"""`jtl.finetune`: the verb `jtl train` in Python."""

import os
from typing import TYPE_CHECKING, Any

from jtl import signals
from jtl.api import process

if TYPE_CHECKING:
    import jtl.api.model

PREEMPTED = "preempted"


def finetune(
    data: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "",
    strategy: str = "",
    epochs: float = 0.0,
    workdir: str | os.PathLike[str] = "",
    **settings: Any,
) -> "jtl.api.model.Model":
    """Fine-tune on data by the recipe of a strategy, or go on with what `workdir` holds; return the model.

    It is `jtl train DATA`: the same run folder, which the same call finds again (a finished run is only
    opened), and which every verb reads. `data` is a folder, a table, a `.npz` or a `.tar`. Left out,
    `weights` are the best of those at hand, and then the strategy goes by the number of labels (else it is
    "full"); `epochs` are those of the recipe.
    Further settings are named by section, `optim={"learning_rate": 1e-3}`, or as on the command line,
    `**{"optim.learning_rate": 1e-3}`.

    Progress is shown on standard error. An interrupt (Ctrl-C, or a notebook's stop) during training saves
    what is trained; a second one ends the process.

    Raises:
        ValueError: data, weights and settings do not fit together, or the folder belongs to another run.
        KeyboardInterrupt: training was interrupted; what is trained is saved, and the same call goes on.
    """
    process.prepare()
    from jtl.api import model
    from jtl.verbs import train

    try:
        summary, folder = train.trained(
            data=os.fspath(data),
            weights=os.fspath(weights),
            strategy=strategy,
            epochs=epochs,
            workdir=os.fspath(workdir),
            overrides=process.overrides(settings),
        )
    except signals.Stopped as stopped:
        raise KeyboardInterrupt(f"stopped by {stopped}; the same call goes on") from stopped
    if summary["status"] == PREEMPTED:
        raise KeyboardInterrupt(f"stopped at step {summary['steps']} and saved; the same call goes on")
    return model.load(folder)
