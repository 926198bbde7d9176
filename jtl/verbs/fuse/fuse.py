"""Fusion of finished runs: soups, interpolation with the start, ensembles; the verb `jtl fuse`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jtl import metrics, tree
from jtl.errors import UserError, nearest
from jtl.report import curves, summary, tables
from jtl.report.summary import Phases
from jtl.training import build, config, evaluate, meta, progress
from jtl.verbs.fuse import ensemble, fusion
from jtl.verbs.fuse.members import (
    Judge,
    Member,
    Variables,
    check_alike,
    differing_notes,
    make_judge,
    open_member,
    say,
    score,
    variables,
    with_statistics,
)
from jtl.weights.contract import NO_WEIGHTS
from jtl.weights.open import digest, joined_digest
from jtl.weights.report import NEW, shorten
from jtl.weights.run_folder import FUSION_NAME, META_NAME, WEIGHTS_NAME, write_run_weights

VALIDATION = "val"
ALPHAS = tuple(index / 10 for index in range(11))
OPTIONS = ("start", "alphas", "statistics_of")


class Request(NamedTuple):
    """What `jtl fuse` was asked: run folders, a method, where to, and the methods' own options.

    `start` is a spec or a run folder and `alphas` are numbers separated by commas (wise); `statistics_of` is
    a folder of images that running statistics are estimated on.
    """

    runs: tuple[str, ...]
    method: str
    out: str
    start: str
    alphas: str
    statistics_of: str
    batch_size: int
    overrides: list[tuple[str, str]]


class Method(NamedTuple):
    """One way to fuse: `fuse(request, members)` → what fuse.json says; how many runs, which options it takes.

    With `is_one_model` all members are of one shape, and so is what becomes of them.
    """

    fuse: Callable[[Request, Sequence[Member]], dict[str, Any]]
    min_runs: int
    max_runs: int
    options: tuple[str, ...]
    is_one_model: bool = True


def run(request: Request) -> dict[str, Any]:
    """Fuse the runs into a folder, print how, and return what its fuse.json says.

    Raises:
        UserError: runs, method and options do not fit together.
    """
    if request.method not in METHODS:
        raise UserError(
            f"--method {request.method!r} is unknown; nearest: {nearest(request.method, METHODS)}"
        )
    method = METHODS[request.method]
    _check(request, method)
    members = [open_member(folder, request.overrides) for folder in request.runs]
    check_alike(members, is_one_model=method.is_one_model)
    say(*differing_notes(members, is_one_model=method.is_one_model))
    return method.fuse(request, members)


def _check(request: Request, method: Method) -> None:
    """Raise UserError unless number of runs, options and output are such as the method takes."""
    count = len(request.runs)
    if not method.min_runs <= count <= method.max_runs:
        wanted = "one" if method.max_runs == 1 else f"{method.min_runs} or more"
        raise UserError(f"--method {request.method} is given {count} runs; expected {wanted}")
    for option in OPTIONS:
        if getattr(request, option) and option not in method.options:
            users = ", ".join(name for name, each in METHODS.items() if option in each.options)
            raise UserError(
                f"--{option.replace('_', '-')} is given, and --method {request.method} has no use for it; "
                f"it is for {users}"
            )
    if count == 1 and not method.max_runs == 1 and not request.statistics_of:
        raise UserError(
            f"--method {request.method} is given one run, of which it would make a copy; give more --runs, "
            f"or --statistics-of images"
        )
    out = Path(request.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {request.out!r} is there already and not empty; give another")


def _uniform(request: Request, members: Sequence[Member]) -> dict[str, Any]:
    judge = _judge(request, members[0])
    scores = _scores(judge, members)
    fused = _soup(judge, members)
    return _write(request, judge, fused, {"members": [each.folder for each in members], "scores": scores})


def _greedy(request: Request, members: Sequence[Member]) -> dict[str, Any]:
    judge = _judge(request, members[0], needs_validation=True)
    scores = _scores(judge, members)
    is_maximized = metrics.is_maximized(judge.monitor)
    sign = 1 if is_maximized else -1
    _check_monitor(judge, {name: value for name, value in scores[0].items() if name != "run"})
    places = [{**entry, "step": place} for place, entry in enumerate(scores)]
    ranking = [entry["step"] for entry in progress.ranked(places, judge.monitor, is_maximized=is_maximized)]

    def value(chosen: tuple[int, ...]) -> float:
        found = score(judge, _soup(judge, [members[place] for place in chosen]), VALIDATION)
        return sign * found.scalars[judge.monitor]

    chosen, decisions = fusion.greedy(ranking, value)
    tried = [
        {
            "run": members[each.member].folder,
            "is_added": each.is_added,
            f"{VALIDATION}/{judge.monitor}": sign * each.value,
        }
        for each in decisions
    ]
    for each in tried:
        verdict = "added" if each["is_added"] else "left out"
        say(f"{each['run']}: {verdict}, {judge.monitor} with it {each[f'{VALIDATION}/{judge.monitor}']:.4f}")
    fused = _soup(judge, [members[place] for place in chosen])
    folders = [members[place].folder for place in chosen]
    return _write(request, judge, fused, {"members": folders, "scores": scores, "decisions": tried})


def _wise(request: Request, members: Sequence[Member]) -> dict[str, Any]:
    (member,) = members
    alphas = _alphas(request.alphas)
    judge = _judge(request, member, needs_validation=True)
    end = variables(member)
    spec, start = _start(request, member, end)

    def candidate(alpha: float) -> Variables:
        return with_statistics(judge, fusion.interpolate(start, end, alpha), (start, end))

    sweep = [
        {"alpha": alpha, **score(judge, candidate(alpha), VALIDATION).scalars} for alpha in sorted(alphas)
    ]
    say(_table(sweep))
    if fusion.is_same(start, end):
        say("start and run have the same weights, but for what is new in the run: every alpha is one model")
    _check_monitor(judge, sweep[0])
    places = [{**entry, "step": place} for place, entry in enumerate(sweep)]
    best = progress.best(places, judge.monitor, is_maximized=metrics.is_maximized(judge.monitor))
    assert best is not None, "a sweep of no alpha"
    say(f"alpha {best['alpha']:g} is best on validation ({judge.monitor} {best[judge.monitor]:.4f})")
    record = {"members": [member.folder], "start": spec, "alpha": best["alpha"], "sweep": sweep}
    result = _write(request, judge, candidate(best["alpha"]), record)
    names = [name for name in sweep[0] if name != "alpha"]
    series = {f"{VALIDATION}/{name}": [(each["alpha"], each[name]) for each in sweep] for name in names}
    curves.draw(series, Path(request.out) / "sweep.png", "alpha: 0 the start, 1 the run")
    return result


def _ensemble(request: Request, members: Sequence[Member]) -> dict[str, Any]:
    first = _judge(request, members[0])
    judges = [first]
    judges += [make_judge(each, batch_size=request.batch_size, beside=first) for each in members[1:]]
    if not first.eval_splits:
        raise UserError(
            f"the data of run {members[0].folder!r} has no validation or test split to predict; give one: "
            f"--config.data.path=FOLDER"
        )
    candidates = [variables(each) for each in members]
    scores = [
        {"run": judge.member.folder, **_validated(judge, own)}
        for judge, own in zip(judges, candidates, strict=True)
    ]
    folder, names = Path(request.out), members[0].stats.label_names
    found = {split: ensemble.measure(judges, candidates, split) for split in first.eval_splits}
    for split, each in found.items():
        _report(first, folder, split, each.summary)
        ensemble.write_predictions(folder / split / "predictions.csv", each, first.splits[split], names)
    record = _record(
        request,
        {
            "members": [each.folder for each in members],
            "scores": scores,
            "metrics": _flat({split: each.summary for split, each in found.items()}),
        },
    )
    _say_scores(first, record)
    say(f"{folder} holds predictions, and no model: members of different shapes are not one")
    summary.write_json(folder / FUSION_NAME, record)
    return record


def _judge(request: Request, member: Member, *, needs_validation: bool = False) -> Judge:
    judge = make_judge(member, batch_size=request.batch_size, statistics_of=request.statistics_of)
    if needs_validation and VALIDATION not in judge.splits:
        raise UserError(
            f"--method {request.method} chooses on validation images, and the data of run {member.folder!r} "
            f"has none ({', '.join(judge.splits)}); give some: --config.data.path=FOLDER with a folder val/"
        )
    return judge


def _check_monitor(judge: Judge, known: Mapping[str, Any]) -> None:
    """Raise UserError unless what picked the run's best step is measured on labelled images, as here."""
    if judge.monitor not in known:
        raise UserError(
            f"run {judge.member.folder!r} was chosen by train.monitor {judge.monitor!r}, which is no metric "
            f"of labelled images; give another: --config.train.monitor={nearest(judge.monitor, known, 1)}"
        )


def _soup(judge: Judge, members: Sequence[Member]) -> Variables:
    """Return the mean of the members, with running statistics of its own."""
    fused = fusion.mean(variables(each) for each in members)
    return with_statistics(judge, fused, (variables(members[0]),))


def _scores(judge: Judge, members: Sequence[Member]) -> list[dict[str, Any]]:
    """Return the validation metrics of each run as it is."""
    return [{"run": each.folder, **_validated(judge, variables(each))} for each in members]


def _validated(judge: Judge, candidate: Variables) -> Mapping[str, float]:
    """Return the validation metrics, none where there is no validation split."""
    return score(judge, candidate, VALIDATION).scalars if VALIDATION in judge.splits else {}


def _start(request: Request, member: Member, end: Variables) -> tuple[str, tree.Tree]:
    """Return where WiSE-FT's other end comes from, and its values.

    What the start's weights do not have (a new head) is taken from the run: there is nothing to interpolate.

    Raises:
        UserError: there is no start, or it is of another model.
    """
    own = member.settings
    model, weights = own.model, own.weights
    if request.start:
        model = replace(model, weights=request.start)
        head = "load" if _has_classes(request.start, member) else "new"
        weights = replace(weights, head=head, label_map={}, sha256="")
    if model.weights == NO_WEIGHTS:
        raise UserError(
            f"run {member.folder!r} started from random weights, between which and trained ones there is no "
            f"model worth having; give the weights to interpolate with: --start SPEC"
        )
    settings = replace(member.found.settings, model=model, weights=weights)
    built = build.build(settings, member.stats, steps=1)
    assert built.loaded is not None, "a start has weights"
    flat = tree.flatten({"params": built.params, "model_state": built.model_state})
    # What is made of what was loaded counts as new in the report, and is as good as loaded.
    rows = () if weights.head in build.MADE_HEADS else built.loaded.report.of(NEW)
    fresh = [name for row in rows for name in row.targets]
    theirs = tree.flatten(end)
    start = flat | {name: theirs[name] for name in fresh}
    also = f"; of the run itself, as they are new there: {shorten(fresh, 4)}" if fresh else ""
    say(f"start: {model.weights}{also}")
    return model.weights, tree.unflatten({name: start[name] for name in theirs})


def _has_classes(spec: str, member: Member) -> bool:
    """Return whether a spec is a run folder that tells the member's classes apart."""
    if not (Path(spec) / META_NAME).is_file():
        return False
    return open_member(spec, ()).stats.label_names == member.stats.label_names


def _alphas(text: str) -> tuple[float, ...]:
    if not text:
        return ALPHAS
    try:
        values = tuple(float(each) for each in text.split(","))
    except ValueError as error:
        raise UserError(f"--alphas is {text!r}; expected numbers separated by commas: 0,0.5,1") from error
    if not all(0.0 <= each <= 1.0 for each in values) or len(set(values)) != len(values):
        raise UserError(f"--alphas is {text!r}; expected different numbers from 0 (the start) to 1 (the run)")
    return values


def _write(request: Request, judge: Judge, fused: Variables, record: dict[str, Any]) -> dict[str, Any]:
    """Measure what was fused on every split that is not for training, and write it as a run folder."""
    phases = Phases()
    with phases.measure("evaluate"):
        found = {split: score(judge, fused, split) for split in judge.eval_splits}
    folder, member = Path(request.out), judge.member
    folder.mkdir(parents=True, exist_ok=True)
    write_run_weights(folder, fused["params"], fused["model_state"])
    for split, each in found.items():
        _report(judge, folder, split, each)
    scalars = _flat(found)
    record = _record(request, {**record, "metrics": scalars})
    digests = tuple(digest(Path(each)) for each in request.runs)
    weights = {
        "source": f"{request.method} of {', '.join(request.runs)}",
        "sha256": joined_digest(digests),
    }
    parameters = {"total": tree.num_values(fused["params"]), "trainable": 0}
    result = summary.build(
        status="finished",
        steps=0,
        final={name: value for name, value in scalars.items() if name.startswith(f"{VALIDATION}/")},
        best={"step": 0, **scalars},
        phases=phases,
        num_images=0,
        parameters=parameters,
        weights=weights,
        digest=tree.sha256(fused["params"]),
        peak_memory_bytes=0,
    )
    about = meta.describe(member.settings, judge.built, member.stats)
    about |= {"weights": weights, "parameters": parameters, "fused": record}
    for name, value in (("summary.json", result), (FUSION_NAME, record), (META_NAME, about)):
        summary.write_json(folder / name, value)
    # Last, for it makes the folder a run folder.
    summary.write_json(folder / "config.json", config.to_dict(member.settings))
    _say_scores(judge, record)
    say(f"{folder / WEIGHTS_NAME}: {request.method} of {', '.join(record['members'])}")
    return record


def _report(judge: Judge, folder: Path, split: str, found: metrics.Summary) -> None:
    names = judge.member.stats.label_names
    say(f"{split}:\n{tables.final_table(found, names)}")
    result = {"split": split, "num_examples": len(judge.splits[split]), "metrics": found.scalars}
    evaluate.write(folder / split, result, found, names)


def _record(request: Request, found: Mapping[str, Any]) -> dict[str, Any]:
    images = {"statistics_of": request.statistics_of} if request.statistics_of else {}
    return summary.plain({"method": request.method, "runs": request.runs, **images, **found})


def _flat(found: Mapping[str, metrics.Summary]) -> dict[str, float]:
    return {f"{split}/{name}": value for split, each in found.items() for name, value in each.scalars.items()}


def _say_scores(judge: Judge, record: Mapping[str, Any]) -> None:
    """Print validation metrics of the members, where they were measured, and of what was made of them."""
    rows = record.get("scores", ())
    if not rows or VALIDATION not in judge.splits:
        return
    made = {name: record["metrics"][f"{VALIDATION}/{name}"] for name in rows[0] if name != "run"}
    say("validation:", _table([*rows, {"run": record["method"], **made}]))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
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


UNLIMITED = 10_000
METHODS: dict[str, Method] = {
    "uniform": Method(_uniform, 1, UNLIMITED, ("statistics_of",)),
    "greedy": Method(_greedy, 2, UNLIMITED, ("statistics_of",)),
    "wise": Method(_wise, 1, 1, OPTIONS),
    "ensemble": Method(_ensemble, 2, UNLIMITED, (), is_one_model=False),
}
