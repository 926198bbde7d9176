"""Loading the text tower of a CLIP or SigLIP, every tensor of the file accounted for."""

from pathlib import Path
from typing import Any, NamedTuple

from jtl import tree
from jtl.errors import UserError, located
from jtl.models import text_tower
from jtl.models.text_tower import TextModel
from jtl.weights import plan
from jtl.weights.contract import Config, TensorFile
from jtl.weights.hub import resolve as hub
from jtl.weights.hub.beside import CONFIG_NAME
from jtl.weights.hub.objects import read_object
from jtl.weights.load import read
from jtl.weights.names import assign, text
from jtl.weights.report import LoadReport, counted, shorten

SHOWN = 3


class LoadedText(NamedTuple):
    """A text tower with its values, where they came from, and the folder or file they lie in."""

    model: TextModel
    params: dict[str, Any]
    report: LoadReport
    path: Path


def load(spec: str, settings: Config) -> LoadedText:
    """Return the text tower of a spec's weights; settings come from its tensors and the `config.json` beside.

    Raises:
        UserError: the weights cannot be had or read, or have no text tower jtl knows.
    """
    found, file = hub.opened(spec, settings)
    best = assign.best_origin(text.ORIGINS, file.tensors)
    origin, assignment = (text.ORIGINS[best[0]], best[1]) if best else (None, None)
    shapes = assign.model_shapes(assignment.filled, file.tensors) if assignment else {}
    recognised = text.recognise(shapes)
    if origin is None or assignment is None or recognised is None:
        raise UserError(
            f"weights {spec!r} ({file.format}) have no text tower jtl knows; expected CLIP or SigLIP with "
            f"both towers; found {len(file.tensors)} tensors: {shorten(file.tensors, SHOWN)}"
        )
    fields = {**recognised[0], **_stated(found.path)}
    model = text_tower.build(text_tower.Config(**fields))
    leaves = tree.flatten({"params": model.shapes()})
    target = plan.Target(text.NAMES, leaves, None, settings)
    planned = plan.make(target, file, origin, assignment, (), None)
    if not planned.is_sound:
        raise UserError(_misfit(spec, file, planned))
    filled = read(file, planned, leaves)
    report = LoadReport(spec, f"{file.format}, {origin.title}", planned.rows(file, leaves), file.notes)
    return LoadedText(model, tree.unflatten(filled)["params"], report, found.path)


def _stated(path: Path) -> dict[str, Any]:
    """Return the settings that the `config.json` in a folder of weights states."""
    with located(path):
        return text.of_config(read_object(path / CONFIG_NAME) or {}) or {}


def _misfit(spec: str, file: TensorFile, planned: plan.Plan) -> str:
    faults = {
        "do not fit": tuple(planned.misfits.values()),
        "have no place": planned.unknown,
        "leaves are not filled": planned.unfilled,
    }
    return (
        f"weights {spec!r} ({file.format}) do not fit the text tower that their names and config.json "
        f"describe: {counted(faults, SHOWN)}; get both again, of one version"
    )
