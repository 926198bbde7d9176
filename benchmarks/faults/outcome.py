"""What a run comes to, field by field, to hold a run that was disturbed against one that was not."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What of summary.json has to be the same; seconds, rates and memory are of the process.
FIELDS = ("status", "steps", "digest", "best", "final", "target")
# Files that hang on how often a run was begun.
COUNTED_BY_STARTS = ("tensorboard", "checkpoints")


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a finished run folder says, by field: summary, weights, every line of numbers, files."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    found = {name: summary.get(name) for name in FIELDS}
    found["weights"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    found["numbers"] = [_without_time(line) for line in _lines(folder / "metrics.jsonl")]
    found["checkpoints"] = sorted(path.name for path in (folder / "checkpoints").iterdir())
    found["files"] = _files(folder)
    return found


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the fields in which two outcomes differ, with what they say.

    >>> differences({"steps": 12, "digest": "a"}, {"steps": 12, "digest": "b"})
    ["digest: 'a', expected 'b'"]
    """
    names = [name for name in theirs if ours.get(name) != theirs[name]]
    return [f"{name}: {_told_apart(ours.get(name), theirs[name])}" for name in names]


def against(folder: Path, expected: Mapping[str, Any]) -> list[str]:
    """Return how a run folder differs from an outcome; one that cannot be read differs in that."""
    try:
        return differences(outcome(folder), expected)
    except (OSError, ValueError, TypeError) as error:
        return [f"unreadable: {error}"]


def status(folder: Path) -> str | None:
    """Return the status of a run, None where its summary is not written or cannot be read."""
    try:
        return json.loads((folder / "summary.json").read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def steps_on_disk(folder: Path) -> list[int]:
    """Return the steps whose checkpoints are whole, rising."""
    path = folder / "checkpoints"
    names = [each.name for each in path.iterdir()] if path.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def saving(folder: Path) -> list[str]:
    """Return the unfinished saves of a run folder."""
    path = folder / "checkpoints"
    names = [each.name for each in path.iterdir()] if path.is_dir() else []
    return sorted(name for name in names if "tmp" in name)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _without_time(line: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name != "time"}


def _files(folder: Path) -> list[str]:
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(str(path) for path in paths if path.parts[0] not in COUNTED_BY_STARTS)


def _told_apart(ours: Any, theirs: Any) -> str:
    """Return both values; of lists only what is from the first difference on."""
    if isinstance(ours, list) and isinstance(theirs, list):
        first = next((place for place, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        place = min(len(ours), len(theirs)) if first is None else first
        return (
            f"at {place} of {len(ours)}: {_cut(ours[place:])}, expected {len(theirs)}: {_cut(theirs[place:])}"
        )
    return f"{_cut(ours)}, expected {_cut(theirs)}"


def _cut(value: Any, length: int = 160) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}…"
