"""An empty torchvision, for timm's imports where none works (there is none for PyTorch's builds for CPUs).

timm imports it for transforms and for a frozen normalisation layer; no model that is measured uses either.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

NAME = "torchvision"


def in_place() -> list[str]:
    """Put it in the place of one that is missing or broken; return the line that says so, if any."""
    try:
        importlib.import_module(NAME)
        return []
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        fault = type(error).__name__
    for name in [each for each in sys.modules if each.partition(".")[0] == NAME]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder())
    return [f"{NAME} cannot be imported ({fault}): timm was given an empty one, which no model here uses"]


class _Anything(type):
    """The type of classes that have whatever is asked of them."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if name.partition(".")[0] != NAME:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        del module
