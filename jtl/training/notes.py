"""What is said of a run while it goes: on the screen, and in the notes of meta.json."""

from jtl import distributed, files
from jtl.report import summary
from jtl.training.ready import Run


def say(ready: Run, text: str) -> None:
    """Say a line, and keep it in the notes of the run folder."""
    ready.reporter.live.log(text)
    if not distributed.is_writer():
        return
    path = ready.plan.folder / "meta.json"
    about = files.read_record(path)
    summary.write_json(path, {**about.values, "notes": [*about.get("notes", files.TEXTS, []), text]})
