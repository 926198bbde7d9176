"""An artefact opened again, as what every verb after training stands on."""

from pathlib import Path

from jtl import files
from jtl.errors import UserError
from jtl.export import TARGETS, graph
from jtl.export.contract import Target
from jtl.predictor import Predictor


def open_folder(folder: str) -> Predictor:
    """Return the model of a folder that `jtl export` wrote, whatever it was written as.

    Its predictions are the artefact's own; only graphs (StableHLO, ONNX, SavedModel) and folders for other
    libraries whose files jtl reads are there. Its settings say what data it was trained on.

    Raises:
        UserError: it is none, or is damaged, or what it needs to run is missing.
    """
    path = Path(folder)
    return _target(path).open(path)


def is_program(folder: str) -> bool:
    """Return whether the folder is a program, which predicts and cannot be looked into.

    Raises:
        UserError: it is no artefact, or is damaged.
    """
    return _target(Path(folder)).is_graph


def _target(path: Path) -> Target:
    record = graph.check_record(path)
    to = record.get("to", files.TEXT)
    if to not in TARGETS:
        raise record.wrong(f"to is {to!r}; expected one of {', '.join(TARGETS)}")
    if not isinstance(record.values.get("compared"), dict):
        raise UserError(f"{str(path)!r} was not written to its end; export it again")
    return TARGETS[to]
