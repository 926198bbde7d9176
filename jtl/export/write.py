"""One export, whole or not at all: written, opened again, compared on real inputs, then put in place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl import files
from jtl.data import Source
from jtl.data.subset import Subset
from jtl.errors import UserError
from jtl.export import TARGETS, card, graph, parity
from jtl.export.contract import RECORD_NAME, Job
from jtl.export.parity import Parity
from jtl.report import summary


class Exported(NamedTuple):
    """What was written: where, what was decided, and how it compares with the model."""

    folder: Path
    notes: list[str]
    parity: Parity
    num_bytes: int


def export(job: Job, to: str, folder: Path, source: Source, *, data: str, batch_size: int) -> Exported:
    """Write an artefact into a new folder; `data` is what the examples of `source` are called.

    Raises:
        UserError: it cannot be written, or does not say what the model says.
    """
    target = TARGETS[to]
    for name, is_given in {"--normalised": job.is_normalised, "--int8": job.is_int8}.items():
        if is_given and not target.is_graph:
            raise UserError(
                f"{name} is given with --to {to}, which is weights for the program of a library; leave it "
                f"out, or choose one of {', '.join(each for each in TARGETS if TARGETS[each].is_graph)}"
            )
    expected = parity.logits(job.predictor, source, batch_size)
    with _new_folder(folder) as part:
        notes = target.write(job, part)
        graph.write_files(job, part, to)
        found = parity.logits(target.open(part), source, batch_size)
        measured = parity.compared(found, expected)
        _check(job, measured, notes)
        record = files.read_record(part / RECORD_NAME).values
        record["compared"] = {**measured._asdict(), "data": data, "tolerance": parity.TOLERANCE}
        record["notes"] = notes
        summary.write_json(part / RECORD_NAME, record)
        files.replace_text(
            part / card.NAME, card.text(job, to, target, measured, folder=part, notes=notes, data=data)
        )
        num_bytes = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    return Exported(folder, notes, measured, num_bytes)


def some_of(source: Source, num_examples: int) -> Source:
    """Return so many examples, evenly spaced; all where 0, or there are no more."""
    if not 0 < num_examples < len(source):
        return source
    return Subset(source, np.linspace(0, len(source) - 1, num_examples).astype(np.int64))


def _check(job: Job, measured: Parity, notes: list[str]) -> None:
    if job.is_int8:
        if measured.num_same < parity.MIN_SAME * measured.num_examples:
            raise UserError(
                f"with int8 weights the model tells another class for "
                f"{measured.num_examples - measured.num_same} of {measured.num_examples} examples "
                f"(logits differ by up to {measured.largest:.1e}); expected at most "
                f"{1 - parity.MIN_SAME:.0%}: leave out --int8"
            )
        notes.append("int8: kernels as whole numbers, one scale an output channel; computed in float32")
        return
    limit = parity.TOLERANCE * max(measured.scale, 1.0)
    if measured.largest > limit:
        raise UserError(
            f"what was written does not say what the model says: {measured.described()}; expected at most "
            f"{limit:.1e}; nothing was kept: choose another --to, and please report it"
        )


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside to fill, which takes the name if the block ends well.

    Raises:
        UserError: there is something of that name, or nowhere to put it.
    """
    check_new(folder)
    with files.replaced(folder) as part:
        part.unlink()
        part.mkdir()
        yield part


def check_new(folder: Path) -> None:
    """Raise UserError unless a folder of that name can be made."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--out {str(folder)!r} is there already; give another folder, or remove it")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"--out {str(folder)!r}: folder {str(folder.parent)!r} is not there; make it first")


def as_json(done: Exported, to: str) -> dict[str, Any]:
    """Return what was written as plain values."""
    return {
        "out": str(done.folder),
        "to": to,
        "num_bytes": done.num_bytes,
        "compared": done.parity._asdict(),
        "notes": done.notes,
        "files": sorted(
            str(path.relative_to(done.folder)) for path in done.folder.rglob("*") if path.is_file()
        ),
    }
