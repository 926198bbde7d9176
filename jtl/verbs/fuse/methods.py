"""The ways to fuse runs: soups, interpolation with the start, ensembles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jtl import tree
from jtl.errors import UserError, nearest
from jtl.metrics import Summary
from jtl.report import curves, summary
from jtl.training import build, progress
from jtl.verbs.fuse import ensemble, fusion, written
from jtl.verbs.fuse.members import (
    Judge,
    Member,
    Variables,
    make_judge,
    open_member,
    say,
    score,
    variables,
    with_statistics,
)
from jtl.verbs.fuse.written import VALIDATION
from jtl.weights.contract import NO_WEIGHTS
from jtl.weights.report import NEW, shorten
from jtl.weights.run_folder import FUSION_NAME, META_NAME

ALPHAS = tuple(index / 10 for index in range(11))


class Method(NamedTuple):
    """One way to fuse: `fuse(members, out, batch_size, **options)` → what fuse.json says.

    It takes `min_runs` to `max_runs` runs and the `options` of those names. With `is_one_model` all members
    are of one shape, and so is what becomes of them.
    """

    fuse: Callable[..., dict[str, Any]]
    min_runs: int
    max_runs: int
    options: tuple[str, ...]
    is_one_model: bool = True


class _Scored(NamedTuple):
    """A candidate, and its metrics on validation."""

    fused: Variables
    found: Summary


def _uniform(
    members: Sequence[Member], out: Path, batch_size: int, *, statistics_of: str = ""
) -> dict[str, Any]:
    judge = make_judge(members[0], batch_size=batch_size, statistics_of=statistics_of)
    scores = _scores(judge, members)
    fused = _soup(judge, members)
    folders = [each.folder for each in members]
    record = written.record_of("uniform", members, statistics_of, members=folders, scores=scores)
    return written.run_folder(out, judge, fused, record)


def _greedy(
    members: Sequence[Member], out: Path, batch_size: int, *, statistics_of: str = ""
) -> dict[str, Any]:
    judge = make_judge(members[0], batch_size=batch_size, statistics_of=statistics_of)
    _check_validation("greedy", judge)
    is_maximized = judge.is_maximized
    sign = 1 if is_maximized else -1
    made: dict[tuple[int, ...], _Scored] = {}
    scores, ranking = _singles(judge, members, made)

    def value(places: tuple[int, ...]) -> float:
        # The soup so far may be the last: it and the newest are kept, others cannot be asked for again.
        for other in made.keys() - {places, places[:-1]}:
            del made[other]
        if places not in made:
            made[places] = _scored(judge, _soup(judge, [members[place] for place in places]))
        return sign * made[places].found.scalars[judge.monitor]

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
    folders = [members[place].folder for place in chosen]
    found = {"members": folders, "scores": scores, "decisions": tried}
    record = written.record_of("greedy", members, statistics_of, **found)
    return written.run_folder(out, judge, made[chosen].fused, record, {VALIDATION: made[chosen].found})


def _wise(
    members: Sequence[Member],
    out: Path,
    batch_size: int,
    *,
    start: str = "",
    alphas: str = "",
    statistics_of: str = "",
) -> dict[str, Any]:
    (member,) = members
    tried = _alphas(alphas)
    judge = make_judge(member, batch_size=batch_size, statistics_of=statistics_of)
    _check_validation("wise", judge)
    end = variables(member)
    spec, beginning = _start(start, member, end)

    sweep: list[dict[str, Any]] = []
    best, chosen = None, None
    for alpha in sorted(tried):
        fused = with_statistics(judge, fusion.interpolate(beginning, end, alpha), (beginning, end))
        made = _scored(judge, fused)
        sweep.append({"alpha": alpha, **made.found.scalars})
        _check_monitor(judge, sweep[0])
        places = [{**entry, "step": place} for place, entry in enumerate(sweep)]
        best = progress.best(places, judge.monitor, is_maximized=judge.is_maximized)
        if best is not None and best["alpha"] == alpha:
            chosen = made
    assert best is not None, "a sweep of no alpha"
    assert chosen is not None, "the best of a sweep is one of it"
    say(written.table(sweep))
    if fusion.is_same(beginning, end):
        say("start and run have the same weights, but for what is new in the run: every alpha is one model")
    say(f"alpha {best['alpha']:g} is best on validation ({judge.monitor} {best[judge.monitor]:.4f})")
    found = {"members": [member.folder], "start": spec, "alpha": best["alpha"], "sweep": sweep}
    record = written.record_of("wise", members, statistics_of, **found)
    result = written.run_folder(out, judge, chosen.fused, record, {VALIDATION: chosen.found})
    names = [name for name in sweep[0] if name != "alpha"]
    series = {f"{VALIDATION}/{name}": [(each["alpha"], each[name]) for each in sweep] for name in names}
    curves.draw(series, out / "sweep.png", "alpha: 0 the start, 1 the run")
    return result


def _ensemble(members: Sequence[Member], out: Path, batch_size: int) -> dict[str, Any]:
    first = make_judge(members[0], batch_size=batch_size)
    judges = [first, *(make_judge(each, batch_size=batch_size, beside=first) for each in members[1:])]
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
    names = members[0].stats.label_names
    found = ensemble.measure(judges, candidates, first.eval_splits)
    for split, each in found.items():
        written.report(first, out, split, each.summary)
        ensemble.write_predictions(out / split / "predictions.csv", each, first.splits[split], names)
    scalars = written.flat({split: each.summary for split, each in found.items()})
    folders = [each.folder for each in members]
    record = written.record_of("ensemble", members, "", members=folders, scores=scores, metrics=scalars)
    written.say_scores(first, record)
    say(f"{out} holds predictions, and no model: members of different shapes are not one")
    summary.write_json(out / FUSION_NAME, record)
    return record


def _singles(
    judge: Judge, members: Sequence[Member], made: dict[tuple[int, ...], _Scored]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the validation metrics of each run as it is, and the runs' places from the best on.

    The best is left in `made`, where a soup of it alone is just that run: unless it takes statistics of its
    own, which the runs' scores are not measured with.
    """
    scores: list[dict[str, Any]] = []
    ranking: list[int] = []
    for place, member in enumerate(members):
        single = _scored(judge, variables(member))
        scores.append({"run": member.folder, **single.found.scalars})
        _check_monitor(judge, scores[0])
        places = [{**entry, "step": at} for at, entry in enumerate(scores)]
        ranked = progress.ranked(places, judge.monitor, is_maximized=judge.is_maximized)
        ranking = [entry["step"] for entry in ranked]
        if ranking[:1] == [place] and not judge.has_own_moments:
            made.clear()
            made[place,] = single
    return scores, ranking


def _check_validation(method: str, judge: Judge) -> None:
    """Raise UserError unless there are examples to choose on."""
    if VALIDATION not in judge.splits:
        raise UserError(
            f"--method {method} chooses on validation {judge.predictor.input.unit}, and the data of run "
            f"{judge.member.folder!r} "
            f"has none ({', '.join(judge.splits)}); give some: --config.data.path=FOLDER with a folder val/"
        )


def _check_monitor(judge: Judge, known: Mapping[str, Any]) -> None:
    """Raise UserError unless what picked the run's best step is measured on labelled examples, as here."""
    if judge.monitor not in known:
        raise UserError(
            f"run {judge.member.folder!r} was chosen by train.monitor {judge.monitor!r}, which is no metric "
            f"of labelled {judge.predictor.input.unit}; give another: "
            f"--config.train.monitor={nearest(judge.monitor, known, 1)}"
        )


def _scored(judge: Judge, fused: Variables) -> _Scored:
    return _Scored(fused, score(judge, fused, VALIDATION))


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


def _start(spec: str, member: Member, end: Variables) -> tuple[str, tree.Tree]:
    """Return where WiSE-FT's other end comes from ("": where the run began), and its values.

    What the start's weights do not have (a new head) is taken from the run: there is nothing to interpolate.

    Raises:
        UserError: there is no start, or it is of another model.
    """
    own = member.settings
    model, weights = own.model, own.weights
    if spec:
        model = replace(model, weights=spec)
        head = "load" if _has_classes(spec, member) else "new"
        weights = replace(weights, head=head, label_map={}, sha256="")
    if model.weights == NO_WEIGHTS:
        raise UserError(
            f"run {member.folder!r} started from random weights, between which and trained ones there is no "
            f"model worth having; give the weights to interpolate with: --start SPEC"
        )
    settings = replace(member.found.settings, model=model, weights=weights)
    built = build.assembled(settings, member.stats)
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


UNLIMITED = 10_000
METHODS: dict[str, Method] = {
    "uniform": Method(_uniform, 1, UNLIMITED, ("statistics_of",)),
    "greedy": Method(_greedy, 2, UNLIMITED, ("statistics_of",)),
    "wise": Method(_wise, 1, 1, ("start", "alphas", "statistics_of")),
    "ensemble": Method(_ensemble, 2, UNLIMITED, (), is_one_model=False),
}
