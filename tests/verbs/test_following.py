"""What every verb ends by: commands that come next, which the command line takes as they are printed."""

import json
import shlex
from types import ModuleType
from typing import Any

import pytest

from jtl import cli
from jtl.training import run as training
from jtl.verbs import (
    VERBS,
    checkpoint,
    estimate,
    evaluate,
    explain,
    export,
    features,
    few_shot,
    predict,
    report,
)
from jtl.verbs.bench import bench
from jtl.verbs.compare import compare
from jtl.verbs.fuse import fuse
from jtl.verbs.lr_find import lr_find
from jtl.verbs.rank import rank
from jtl.verbs.tune import tune

EVALUATED = {"split": "val", "label_names": ["ant", "bee"]}
PREDICTED = {"model": "w", "notes": [], "images": [{"path": "a b.jpg", "predictions": []}]}
EXPLAINED = {**PREDICTED, "method": "m", "images": [{"path": "a b.jpg", "picture": "explained/a b.png"}]}
BENCHED = {"config": {"train": {"batch_size": 32}}}
SWEPT = {**BENCHED, "best": {"batch_size": 64}}
COMPARED = {
    "status": "finished",
    "column": "val best",
    "is_maximized": True,
    "runs": [
        {"variant": label, "folder": f"out/{label}/seed{seed}", "values": {"val best": value}}
        for seed in (0, 1)
        for label, value in (("full", 0.5), ("lora", 0.6 + seed))
    ],
}
FEATURES = {"features": {"block1": [5, 8]}, "has_labels": False}
FEW = {"features": {"pre_head": [5, 8]}, "has_labels": True}
ENTRY = "--config.weights.entry=model ema"
# What is asked, the module whose work is left out, what it would give, and what comes next.
ASKED: list[tuple[list[str], ModuleType, dict[str, Any], list[str]]] = [
    (
        ["predict", "--weights", "w", "a b.jpg", ENTRY],
        predict,
        PREDICTED,
        [
            "jtl predict --weights w 'a b.jpg' '--config.weights.entry=model ema' --out predictions.csv",
            "jtl explain --weights w 'a b.jpg' '--config.weights.entry=model ema'",
            "jtl serve --weights w '--config.weights.entry=model ema'",
        ],
    ),
    (
        ["predict", "--artefact", "out", *"abcd", "--out", "a.csv"],
        predict,
        PREDICTED,
        ["jtl serve --artefact out"],
    ),
    (
        ["predict", "--run", "r", "--text=--not an option"],
        predict,
        {"model": "r", "notes": [], "texts": [{"text": "--not an option"}]},
        [
            "jtl predict --run r '--text=--not an option' --out predictions.csv",
            "jtl explain --run r '--text=--not an option'",
            "jtl serve --run r",
        ],
    ),
    (
        ["predict", "--weights", "clip", "--classes", "a cat,a dog", *"abcd", "--out", "a.csv"],
        predict,
        PREDICTED,
        [
            "jtl evaluate --weights clip --classes 'a cat,a dog' --data LABELLED_DATA",
            "jtl serve --weights clip --classes 'a cat,a dog'",
        ],
    ),
    (
        ["evaluate", "--weights", "clip", "--zero-shot", "--data", "d", "--config.data.max_unreadable=1"],
        evaluate,
        EVALUATED,
        [
            "jtl evaluate --weights clip --zero-shot --data d --split val --config.data.max_unreadable=1 "
            "--out predictions.csv",
            "jtl predict --weights clip --classes ant,bee FILES",
        ],
    ),
    (
        ["evaluate", "--run", "r"],
        evaluate,
        EVALUATED,
        [
            "jtl evaluate --run r --split val --out predictions.csv",
            "jtl predict --run r FILES",
            "jtl report r",
        ],
    ),
    (
        ["explain", "--run", "r", "a b.jpg"],
        explain,
        EXPLAINED,
        [
            "jtl explain --run r 'a b.jpg' --out relevance.npz",
            "jtl predict --run r 'a b.jpg'",
            "jtl report r",
        ],
    ),
    (
        ["features", "--weights", "w", "--data", "d", "--features", "block1", "--out", "f.npz"],
        features,
        FEATURES,
        [
            "jtl train LABELLED_DATA --weights w --strategy probe "
            + shlex.quote("--config.model.features=('block1',)")
        ],
    ),
    (
        ["features", "--run", "r", "--data", "d", "--out", "f.npz"],
        features,
        FEW,
        ["jtl train d --weights r --strategy probe", "jtl predict --run r d"],
    ),
    (
        ["export", "--run", "r", "--to", "stablehlo", "--out", "out/"],
        export,
        {},
        [
            "jtl predict --artefact out/ FILES",
            "jtl serve --artefact out/",
            "jtl export --run r --to hub-folder --out out-hub-folder",
        ],
    ),
    (
        ["compare", "--config", "c.py", "--out", "out"],
        compare,
        COMPARED,
        [
            "jtl report out/full/seed0 out/lora/seed0 --out out/report.html",
            "jtl predict --run out/lora/seed0 FILES",
        ],
    ),
    (
        ["fuse", "--runs", "a", "b", "--method", "greedy", "--out", "out"],
        fuse,
        {},
        ["jtl evaluate --run out --data DATA", "jtl predict --run out FILES"],
    ),
    (
        ["fuse", "--runs", "a", "b", "--method", "ensemble", "--out", "out"],
        fuse,
        {},
        ["jtl report a b --out report.html"],
    ),
    (
        ["bench", "--config", "c.py", "--length", "64", "--config.model.weights=none"],
        bench,
        BENCHED,
        [
            "jtl bench --config c.py --config.model.weights=none --length 64 --sweep batch_size=16,32,64",
            "jtl estimate --config c.py --config.model.weights=none --config.train.batch_size=32 --length 64",
        ],
    ),
    (
        ["bench", "--config", "c.py", "--sweep", "batch_size=32,64", "--config.train.batch_size=8"],
        bench,
        SWEPT,
        [
            "jtl bench --config c.py --config.train.batch_size=64",
            "jtl estimate --config c.py --config.train.batch_size=64",
        ],
    ),
    (
        ["estimate", "--config", "c.py"],
        estimate,
        {"batch_size": 32, "fits": True, "largest_batch_size": 96},
        [
            "jtl bench --config c.py --config.train.batch_size=32",
            "jtl bench --config c.py --sweep batch_size=32,96",
        ],
    ),
    (
        ["estimate", "--config", "c.py", "--no-search"],
        estimate,
        {"batch_size": 32, "fits": False},
        [],
    ),
    (
        ["rank", "d", "--weights", "v", "w"],
        rank,
        {"candidates": [{"weights": "w", "settings": {"model.image_px": 96}}]},
        [
            "jtl train d --weights w --config.model.image_px=96",
            "jtl train d --weights w --config.model.image_px=96 --strategy probe "
            "--config.train.is_augmented=False",
        ],
    ),
    (
        ["few-shot", "d", "--weights", "v", "w"],
        few_shot,
        {
            "results": [
                {"weights": name, "accuracy": value, "settings": {}}
                for name, value in (("v", 0.5), ("w", 0.6))
            ]
        },
        ["jtl rank d --weights v w", "jtl train d --weights w --strategy probe"],
    ),
    (
        ["lr-find", "d", "--weights", "w", "--config.train.seed=1"],
        lr_find,
        {"learning_rate": 0.003},
        ["jtl train d --weights w --config.optim.learning_rate=0.003 --config.train.seed=1"],
    ),
    (
        ["tune", "d", "--weights", "w", "--out", "t", "--config.train.seed=1"],
        tune,
        {
            "status": "finished",
            "best": {"folder": "t/trial003", "values": {"optim.learning_rate": 0.002}},
        },
        [
            "jtl train d --weights w --config.train.seed=1 --config.optim.learning_rate=0.002",
            "jtl predict --run t/trial003 FILES",
        ],
    ),
    (
        ["report", "r", "s"],
        report,
        {},
        ["jtl evaluate --run r --data DATA", "jtl predict --run r FILES"],
    ),
    (
        ["weights", "verify", "w", "--against", "d"],
        evaluate,
        EVALUATED,
        ["jtl predict --weights w FILES", "jtl train DATA --weights w"],
    ),
]


def told(text: str) -> list[str]:
    return [line.removeprefix("next: ") for line in text.splitlines() if line.startswith("next: ")]


def check_taken(commands: list[str]) -> None:
    """Fail where the command line would not take one of the commands."""
    for command in commands:
        first, *words = shlex.split(command)
        assert first == "jtl"
        cli._parser().parse_args(cli.split_overrides(words)[0])


@pytest.mark.parametrize(("words", "module", "result", "expected"), ASKED, ids=lambda each: str(each)[:40])
def test_commands_that_come_next_are_taken_as_printed(
    words: list[str],
    module: ModuleType,
    result: dict[str, Any],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "run", lambda *_, **__: result)
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--json"])
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    assert told(shown.err) == expected
    check_taken(told(shown.err))
    assert json.loads(shown.out) == result


def test_training_and_weights_say_what_comes_next(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    monkeypatch.setattr(training, "run", lambda *_, **__: {"status": "finished"})
    asked = [
        ["train", str(tmp_path / "rows.csv"), "--weights", "embedded://vit_mini", "--workdir", "r"],
        ["weights", "list"],
        ["weights", "inspect", "embedded://vit_mini"],
        [*["weights", "convert", "embedded://vit_mini", "--to", "npz", "--out"], str(tmp_path / "mini.npz")],
    ]
    found = []
    for words in asked:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--json"])
        shown = capsys.readouterr()
        assert ended.value.code == 0, shown.err
        json.loads(shown.out)
        check_taken(told(shown.err))
        found.append(told(shown.err))
    assert found[0] == [
        "jtl predict --run r FILES",
        "jtl evaluate --run r --data DATA",
        "jtl serve --run r",
    ]
    assert found[1] == ["jtl weights inspect NAME", "jtl train DATA --weights NAME"]
    assert found[2] == [
        "jtl train DATA --weights embedded://vit_mini",
        "jtl predict --weights embedded://vit_mini FILES",
        "jtl features --weights embedded://vit_mini --data DATA --out features.npz",
    ]
    assert found[3][1] == f"jtl train DATA --weights {tmp_path / 'mini.npz'}"


def test_every_verb_is_asked_here() -> None:
    asked = {words[0] for words, *_ in ASKED} | {"train", "weights"}
    # What serves is followed by a request, which is no command of jtl (test_serve.py).
    assert asked | {"serve", "checkpoint"} == VERBS.keys()


@pytest.mark.parametrize(
    ("action", "result", "expected"),
    [
        ("ls", [], ["jtl checkpoint verify --run 'a b'", "jtl checkpoint prune --run 'a b'"]),
        ("verify", {"5": ""}, ["jtl checkpoint prune --run 'a b'", "jtl evaluate --run 'a b'"]),
        ("prune", [5], ["jtl checkpoint ls --run 'a b'"]),
    ],
)
def test_what_is_done_with_checkpoints_is_followed_too(
    action: str,
    result: Any,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checkpoint, action, lambda *_, **__: result)
    with pytest.raises(SystemExit):
        cli.main(["checkpoint", action, "--run", "a b", "--json"])
    shown = capsys.readouterr()
    assert told(shown.err) == expected
    check_taken(expected)
    json.loads(shown.out)
