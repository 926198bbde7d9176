"""How a model sees its examples: whose pre-processing that is, for people, and its files on this machine."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from jtl.inputs import Input
from jtl.training.config import Config
from jtl.weights.contract import Loaded
from jtl.weights.hub import resolve as hub
from jtl.weights.hub.download import clearing

# Changes of the pre-processing that are about the examples at hand, whatever the weights bring.
OF_EXAMPLES = ("white_level", "background")


def preprocess_text(kind: Input, preprocess: Any, loaded: Loaded | None, changes: Any = None) -> str:
    """Return the pre-processing in one line, and whose it is; `changes` are the user's own."""
    whose = _whose_preprocess(kind, loaded, changes or kind.Changes())
    return f"pre-processing: {kind.described(preprocess)} ({whose})"


def settled(kind: Input, own: Any, brought: Any | None, config: Config) -> Any:
    """Return the pre-processing as `Input.settled` does, with the user's changes and what they name fetched.

    Raises:
        UserError: it cannot be; of a file that was downloaded it says how to clear it.
    """
    changes = fetched_changes(config)
    with ExitStack() as stack:
        for name, value in vars(config.preprocess).items():
            if (found := getattr(changes, name)) != value:
                stack.enter_context(clearing(Path(found)))
        return kind.settled(own, brought, changes)


def fetched_changes(config: Config) -> Any:
    """Return the changes of the pre-processing with files of a hub or an address as paths on this machine."""
    changes = config.preprocess
    specs = {name: value for name, value in vars(changes).items() if "://" in str(value)}
    return replace(
        changes, **{name: str(hub.tokenizer(spec, config.weights)) for name, spec in specs.items()}
    )


def _whose_preprocess(kind: Input, loaded: Loaded | None, changes: Any) -> str:
    if loaded is None:
        return "the family's own"
    if loaded.preprocess is not None and not loaded.guessed:
        return "of the weights"
    told = {name: value for name, value in vars(changes).items() if name not in OF_EXAMPLES}
    open_settings = [name for name, value in told.items() if value in (None, (), "")]
    if not open_settings:
        return "as the settings say"
    guessed = loaded.guessed or "the family's own, as the weights came without any"
    names = ", ".join(f"preprocess.{name}" for name in open_settings)
    return f"a guess, {guessed}; to change it: {names}"
