"""Config files: Python files of a user's own, whose `get_config` gives a ConfigDict.

This is the only file that knows ConfigDict.
"""

import importlib.util
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jtl.errors import UserError, shortened, shown


def read(spec: str) -> dict[str, Any]:
    """Return the nested plain values that a config file gives for "path:argument".

    Raises:
        UserError: the file cannot be read, or fails, or gives something else.
    """
    return _to_dict(_load(spec))


def _load(spec: str) -> ConfigDict:
    """Return what the `get_config` of a config file gives, called with what stands behind the colon."""
    path, _, argument = spec.partition(":")
    get_config = _function_of(path)
    if argument and not inspect.signature(get_config).parameters:
        raise UserError(f"config file {path!r} takes no argument; found {shown(argument)} after the colon")
    try:
        found = get_config(argument) if argument else get_config()
    except ValueError as error:
        raise UserError(str(error)) from error
    except (Exception, SystemExit) as error:  # whatever the user's own function raises
        raise UserError(f"get_config of {path!r} failed: {_raised(path, error)}") from error
    if not isinstance(found, ConfigDict):
        raise UserError(f"get_config of {path!r} gives {shown(found)}; expected an ml_collections ConfigDict")
    return found


def _function_of(path: str) -> Callable[..., Any]:
    expected = "expected a Python file such as configs/vit_ft.py"
    if Path(path).is_dir():
        raise UserError(f"config file {path!r} is a folder; {expected}")
    if not Path(path).is_file():
        raise UserError(f"config file {shown(path)} is not there; {expected}")
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(
            f"config file {path!r} is no Python file; {expected} (a run goes on by the command it began with)"
        )
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's own file raises
        raise UserError(f"config file {path!r} cannot be read: {_raised(path, error)}") from error
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"config file {path!r} has no function get_config(argument='')")
    return module.get_config


def _raised(path: str, error: BaseException) -> str:
    """Return what the user's own file raised, and in which of its lines."""
    lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
    place = f" in line {line}" if line else ""
    return f"{type(error).__name__}{place}: {shortened(str(error))}"


def _to_dict(config: ConfigDict) -> dict[str, Any]:
    return {key: _to_dict(value) if isinstance(value, ConfigDict) else value for key, value in config.items()}
