"""What `jtl fuse` leaves behind: a run folder of the fused model, reports of its splits, and fuse.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl import metrics, tree
from jtl.report import summary, tables
from jtl.report.summary import Phases
from jtl.training import config, evaluate, meta
from jtl.verbs.fuse.members import Judge, Member, Variables, say, score
from jtl.weights.open import digest, joined_digest
from jtl.weights.run_folder import FUSION_NAME, META_NAME, WEIGHTS_NAME, write_input_files, write_run_weights

VALIDATION = "val"


def run_folder(
    folder: Path,
    judge: Judge,
    fused: Variables,
    record: Mapping[str, Any],
    known: Mapping[str, metrics.Summary] | None = None,
) -> dict[str, Any]:
    """Measure what was fused on every split that is not for training, and write it as a run folder.

    `record` says how it was fused; with the metrics it is returned, as fuse.json has it. `known` are those of
    splits on which it was measured already.
    """
    phases, known = Phases(), known or {}
    with phases.measure("evaluate"):
        summaries = {split: known.get(split) or score(judge, fused, split) for split in judge.eval_splits}
    member = judge.member
    folder.mkdir(parents=True, exist_ok=True)
    model_sha256 = write_run_weights(folder, fused["params"], fused["model_state"])
    write_input_files(folder, judge.predictor.input.files(judge.predictor.preprocess))
    for split, each in summaries.items():
        report(judge, folder, split, each)
    scalars = flat(summaries)
    found = summary.plain({**record, "metrics": scalars})
    digests = tuple(digest(Path(each)) for each in found["runs"])
    weights = {
        "source": f"{found['method']} of {', '.join(found['runs'])}",
        "sha256": joined_digest(digests),
    }
    parameters = {"total": tree.num_values(fused["params"]), "trainable": 0}
    result = summary.build(
        status="finished",
        steps=0,
        final={name: value for name, value in scalars.items() if name.startswith(f"{VALIDATION}/")},
        best={"step": 0, **scalars},
        phases=phases,
        num_examples=0,
        unit=judge.predictor.input.unit,
        parameters=parameters,
        weights=weights,
        digest=tree.sha256(fused["params"]),
        peak_memory_bytes=0,
        model_sha256=model_sha256,
    )
    about = meta.of_model(member.settings, judge.predictor, member.stats)
    about |= {"weights": weights, "parameters": parameters, "fused": found}
    for name, value in (("summary.json", result), (FUSION_NAME, found), (META_NAME, about)):
        summary.write_json(folder / name, value)
    # Last, for it makes the folder a run folder.
    summary.write_json(folder / "config.json", config.to_dict(member.settings))
    say_scores(judge, found)
    say(f"{folder / WEIGHTS_NAME}: {found['method']} of {', '.join(found['members'])}")
    return found


def record_of(method: str, runs: Sequence[Member], statistics_of: str, **found: Any) -> dict[str, Any]:
    """Return what fuse.json says: how, of which runs, with which examples, and what was found."""
    other = {"statistics_of": statistics_of} if statistics_of else {}
    return summary.plain({"method": method, "runs": [each.folder for each in runs], **other, **found})


def report(judge: Judge, folder: Path, split: str, found: metrics.Summary) -> None:
    """Print and write the metrics of a split."""
    names = judge.member.stats.label_names
    say(f"{split}:\n{tables.final_table(found, names)}")
    result = {"split": split, "num_examples": len(judge.splits[split]), "metrics": found.scalars}
    evaluate.write(folder / split, result, found, names)


def flat(found: Mapping[str, metrics.Summary]) -> dict[str, float]:
    """Return the metrics by names such as "val/accuracy"."""
    return {f"{split}/{name}": value for split, each in found.items() for name, value in each.scalars.items()}


def say_scores(judge: Judge, record: Mapping[str, Any]) -> None:
    """Print validation metrics of the members, where they were measured, and of what was made of them."""
    rows = record.get("scores", ())
    if not rows or VALIDATION not in judge.splits:
        return
    made = {name: record["metrics"][f"{VALIDATION}/{name}"] for name in rows[0] if name != "run"}
    say("validation:", table([*rows, {"run": record["method"], **made}]))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same columns as a table; the first column is a name or a number in short."""
    names = list(rows[0])
    firsts = [row[names[0]] for row in rows]
    lines = [
        [first if isinstance(first, str) else f"{first:g}", *(_cell(row[name]) for name in names[1:])]
        for first, row in zip(firsts, rows, strict=True)
    ]
    return tables.aligned([names, *lines], left=(0,))


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
