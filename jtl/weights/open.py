"""Opening what a spec resolved to: a run folder, a folder with one file of weights, or a file."""

from pathlib import Path

from jtl.errors import UserError
from jtl.weights.contract import TensorFile
from jtl.weights.files import open_file
from jtl.weights.run_folder import META_NAME, WEIGHTS_NAME, open_run


def weights_path(path: Path) -> Path:
    """Return the file of weights: the path itself, or the `model.safetensors` of a folder.

    Raises:
        UserError: the folder has none.
    """
    if not path.is_dir():
        return path
    if not (path / WEIGHTS_NAME).is_file():
        what = (
            "has not finished; repeat its command first"
            if (path / META_NAME).is_file()
            else "is no run folder"
        )
        raise UserError(f"folder {str(path)!r} has no {WEIGHTS_NAME}: it {what}; or give a file of weights")
    return path / WEIGHTS_NAME


def open_path(path: Path) -> TensorFile:
    """Open a file or folder of weights."""
    if path.is_dir() and (path / META_NAME).is_file():
        return open_run(path)
    return open_file(weights_path(path))
