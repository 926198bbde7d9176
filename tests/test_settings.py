"""Every setting is read: by the file that declares it, or by those that are known to read its section."""

import ast
from dataclasses import dataclass, fields, is_dataclass
from fnmatch import fnmatch
from functools import cache

from tests.test_layout import Source, sources


def settings_classes() -> dict[str, type]:
    """Every settings class of the root configuration and of the explicit dicts, by where it stands."""
    from jtl import data, models, strategies, tasks
    from jtl.training import config

    found = {each.name: each.type for each in fields(config.Config) if is_dataclass(each.type)}
    kinds = {
        "data": data.SOURCES,
        "model": models.MODELS,
        "strategy": strategies.STRATEGIES,
        "task": tasks.TASKS,
    }
    for section, entries in kinds.items():
        found |= {f"{section} {name}": kind.Config for name, kind in entries.items()}
    return found  # type: ignore[return-value]


@cache
def _sources_of_jtl() -> list[Source]:
    return sources("jtl")


@cache
def read_names(source: Source) -> set[str]:
    """Attributes that a file reads, outside the checks of the settings classes themselves."""
    tree = source.tree
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [each for each in node.body if getattr(each, "name", "") != "__post_init__"]
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.ctx, ast.Load)}


# Who reads the settings of a section beside the file that declares them: files, or all of a folder.
READERS = {
    "data": (
        "data/subset.py",
        "data/preflight.py",
        "data/columns.py",
        "data/sources/",
        "training/build.py",
        "training/streams.py",
    ),
    "model": (
        *("models/head.py", "models/image.py", "models/*_layers.py", "models/depthwise.py"),
        *("weights/", "training/"),
    ),
    "model cifar_resnet": ("models/resnet.py",),
    "weights": ("weights/", "training/build.py"),
    "inputs": ("data/ahead.py", "training/", "predictor.py", "verbs/bench/"),
    "optim": ("training/step.py", "training/build.py"),
    "train": ("training/", "verbs/"),
}


def readers_of(where: str, settings: type) -> list[Source]:
    """The files that may read the settings of a class: its own, those it inherits from, and the section's."""
    own = {each.__module__.replace(".", "/") + ".py" for each in settings.__mro__ if is_dataclass(each)}
    known = (*READERS.get(where.partition(" ")[0], ()), *READERS.get(where, ()))
    patterns = [f"jtl/{each}" for each in known]

    def is_reader(path: str) -> bool:
        return path in own or any(
            path.startswith(each) if each.endswith("/") else fnmatch(path, each) for each in patterns
        )

    return [source for source in _sources_of_jtl() if is_reader(source.path)]


def unread(where: str, settings: type) -> list[str]:
    names = {name for source in readers_of(where, settings) for name in read_names(source)}
    # By its name a kind is chosen.
    return [each.name for each in fields(settings) if each.name not in {"name", *names}]


def test_every_setting_is_read_where_it_is_declared_or_by_who_is_known_to() -> None:
    found = {where: unread(where, settings) for where, settings in settings_classes().items()}
    assert {where: names for where, names in found.items() if names} == {}


def test_a_setting_that_others_alone_read_under_its_name_counts_as_unread() -> None:
    from jtl.strategies import bitfit, lora

    fake = dataclass(type("Config", (), {"__annotations__": {"rank": int}, "__module__": bitfit.__name__}))
    assert unread("strategy bitfit", fake) == ["rank"]
    assert unread("strategy lora", lora.Config) == []
