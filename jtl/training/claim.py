"""What a run folder holds already, and how a run claims it: config.json, meta.json, the files of its input.

Of several processes the one that writes looks and claims, and tells the others.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl import files, owner
from jtl.data import Source
from jtl.errors import UserError
from jtl.report import summary
from jtl.report.console import Live
from jtl.training import config, meta, routes, solve
from jtl.training.build import Target
from jtl.training.config import Config
from jtl.training.ready import FINISHED, Plan
from jtl.weights.run_folder import CHECKPOINTS_NAME, verified, write_input_files

# How a line begins that says what was chosen for who started the run, which a resumed one does not do again.
CHOSEN = "chosen: "
# How lines begin that the process says which finds them, and that stay.
SAID = (meta.CHECKPOINT, meta.RESUMED, solve.SAID, CHOSEN)
# What a run's length is made of.
LENGTHS = ("train.epochs:", "train.steps:", "train.minutes:")


def finished(settings: Config, folder: Path, live: Live) -> dict[str, Any] | None:
    """Return the summary of a finished run of this configuration, None where there is none yet.

    Raises:
        UserError: the folder holds something else, or the weights are no longer those it wrote.
    """
    if not (folder / config.NAME).exists():
        if folder.exists() and (not folder.is_dir() or not owner.is_free(folder)):
            raise UserError(
                f"{str(folder)!r} is not empty and no run folder (no config.json); give another --workdir"
            )
        return None
    if not config.has_begun(folder):
        live.log("what was started here before made no step: it starts as it is configured now")
        return None
    changed = config.conflicts(settings, config.saved(folder))
    result = summary.read(folder / "summary.json") if (folder / "summary.json").exists() else None
    is_finished = result is not None and result["status"] in FINISHED
    if changed:
        is_longer = is_finished and all(each.startswith(LENGTHS) for each in changed)
        cure = "give another --workdir, or repeat the command it was made with"
        if is_longer:
            cure += f"; to train its weights further: another --workdir and --config.model.weights={folder}"
        raise UserError(
            f"run folder {str(folder)!r} belongs to another configuration ({'; '.join(changed[:4])}); {cure}"
        )
    if result is None or not is_finished:
        return None
    verified(folder)
    live.log(f"this run is finished ({result['status']} at step {result['steps']}); nothing to do")
    return result


def begun(
    plan: Plan, splits: Mapping[str, Source], target: Target | None, notes: Sequence[str], route: str
) -> None:
    """Write config.json and meta.json, once everything they name has been found to fit.

    Raises:
        UserError: the folder's checkpoints are of other training data, or other examples of the target.
    """
    folder = plan.folder
    described = meta.describe(plan.settings, plan.built, plan.stats, splits, target, notes)
    described[routes.KEY] = route
    if (folder / "meta.json").exists() and (folder / CHECKPOINTS_NAME).exists():
        meta.check_same(folder, described)
        # What was found of its checkpoints, and that it goes on elsewhere, is said once, by who found it.
        said = files.read_record(folder / "meta.json").get("notes", files.TEXTS, [])
        described["notes"] += [text for text in said if text.startswith(SAID)]
    folder.mkdir(parents=True, exist_ok=True)
    write_input_files(folder, plan.built.parts.input.files(plan.built.parts.preprocess))
    summary.write_json(folder / config.NAME, config.kept(plan.settings))
    summary.write_json(folder / "meta.json", described)
