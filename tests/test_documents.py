"""What README and docs/ tell a reader to type is taken by the command line, and what they link to is there.

Commands are those of indented code, and between backticks. A word in capitals stands for what a reader has.
"""

import argparse
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jtl import cli
from jtl.errors import UserError
from jtl.training import config, recipe
from jtl.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PROGRAM = r"(?:\.venv/bin/)?jtl |python -m (?:jtl|benchmarks)\b"
CODE = re.compile(rf"^(?:    |\t) *((?:{PROGRAM}).*)$|(?<!`)`((?:{PROGRAM})[^`\n]*)`", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# What may stand for a reader's own weights: the recipe of some is for pictures, of others for texts.
STAND_INS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("model.weights", "embedded://vit_mini"),),
    (("model.name", "bert"), ("model.weights", "none")),
    (("model.name", "resnet"), ("model.weights", "none")),
)
# Commands that leave out what a reader fills in, and words that only show where such words go.
CUT = re.compile(r"…|\[")
MAX_README_LINES = 150


def commands(text: str) -> list[list[str]]:
    """Return the commands of a page as words, without the program's name and what is said of them."""
    joined = text.replace("\\\n", " ")
    found = ["".join(groups) for groups in CODE.findall(joined)]
    whole = [line for line in found if not CUT.search(line)]
    return [shlex.split(line, comments=True) for line in whole]


def of_jtl(text: str) -> Iterator[list[str]]:
    for words in commands(text):
        if words[0].endswith("jtl") and len(words) > 2:
            yield words[1:]
        elif words[:3] == ["python", "-m", "jtl"]:
            yield words[3:]


def read(args: Any, overrides: list[tuple[str, str]]) -> None:
    """Read the configuration that a command names, on some weights.

    Raises:
        UserError: a setting is unknown, or of no value that can be.
    """
    faults = []
    for stand_in in STAND_INS:
        given = [*overrides, *stand_in]
        try:
            if getattr(args, "config", ""):
                config.read(str(ROOT / args.config), given)
            else:
                values = recipe.values(getattr(args, "strategy", "") or "full", "none")
                config.of_values(values, given)
            return
        except UserError as error:
            faults.append(error)
    raise faults[0]


def is_mention(words: list[str]) -> bool:
    """Return whether words lack what a command needs, and are all a verb's own: prose speaks of it."""
    parser = argparse.ArgumentParser()
    VERBS[words[0]].add_arguments(parser)
    known = {flag for action in parser._actions for flag in action.option_strings} | {"--json"}
    needed = any(
        action.required and not set(action.option_strings) & set(words) for action in parser._actions
    )
    group = any(each.required for each in parser._mutually_exclusive_groups)
    return (needed or group or len(words) == 2) and {w for w in words if w.startswith("--")} <= known


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_are_taken_with_their_settings(page: str) -> None:
    for words in of_jtl((ROOT / page).read_text(encoding="utf-8")):
        rest, overrides = cli.split_overrides(words)
        try:
            args = cli._parser().parse_args(rest)
        except SystemExit:
            assert is_mention(rest), f"{page}: jtl {shlex.join(words)}"
            continue
        try:
            if args.verb != "weights":
                read(args, overrides)
        except UserError as error:
            pytest.fail(f"{page}: jtl {shlex.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES)
def test_tools_that_a_page_names_are_there(page: str) -> None:
    for words in commands((ROOT / page).read_text(encoding="utf-8")):
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]) is not None, f"{page}: {words[2]}"


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    for target in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            found = (ROOT / page).parent / path if path else ROOT / page
            assert found.exists(), f"{page} links to {target}"
            assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), f"{page}: {target}"


def anchors(text: str) -> set[str]:
    """Return what headings of a page are called in links."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_reached_from_the_readme_which_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {f"docs/{path.name}" for path in (ROOT / "docs").iterdir()} <= set(LINK.findall(text))
    assert len(text.splitlines()) < MAX_README_LINES


def test_commands_are_found_and_faults_of_them_told() -> None:
    text = (
        "Run `jtl report a b` or\n\n    .venv/bin/jtl train --config configs/ft.py:W \\\n"
        "        --config.data.path=p/  # so\n"
        "\n| x | `jtl weights list` |\n\n    jtl compare … --seeds 3\n\nnot jtl train here\n"
    )
    assert list(of_jtl(text)) == [
        ["report", "a", "b"],
        ["train", "--config", "configs/ft.py:W", "--config.data.path=p/"],
        ["weights", "list"],
    ]
    args = cli._parser().parse_args(["train", "--config", "configs/ft.py:W"])
    with pytest.raises(UserError, match="nearest: 'learning_rate'"):
        read(args, [("optim.learning_rat", "1")])
    assert is_mention(["features", "--pool", "mean"])
    assert not is_mention(["features", "--pol", "mean"])
    assert anchors("# A wanted recall\n## `jtl x`: y") == {"a-wanted-recall", "jtl-x-y"}
