"""What lies beside weights on a hub: `config.json`, and the files that say how an example becomes an input.

They say what tensors cannot: heads, epsilons, the classes' names, sizes of images, the tokenizer.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jtl.errors import UserError, located
from jtl.inputs import tokenizer
from jtl.models import MODELS
from jtl.weights import FAMILIES
from jtl.weights.contract import TensorFile
from jtl.weights.hub import processors, text_files
from jtl.weights.hub.objects import cure, read_object
from jtl.weights.origins import best_known

CONFIG_NAME = "config.json"
NAMES = (CONFIG_NAME, *processors.NAMES)
MAX_NAME_CHARS = 60

# By kind of input: (config, folder) → the pre-processing that the folder states, None where it states none.
PREPROCESS: dict[str, Callable[[Mapping[str, Any], Path], Any | None]] = {
    "image": processors.of_folder,
    "tokens": text_files.of_folder,
}


def describe(file: TensorFile, folder: Path) -> TensorFile:
    """Return the open file with what its folder says of family, settings, classes and pre-processing.

    Raises:
        UserError: one of the folder's files is damaged, or asks for what jtl does not do.
    """
    with located(folder):
        return _described(file, folder)


def _described(file: TensorFile, folder: Path) -> TensorFile:
    config = read_object(folder / CONFIG_NAME)
    if config is not None:
        file = file._replace(
            stated=_stated(config),
            label_names=label_names(config, str(folder / CONFIG_NAME)),
            described_as=described_as(config),
        )
    # What a model of images reads is not asked of a folder of texts, and the other way round.
    known = None if file.stated else best_known(file.tensors)
    kinds = _kinds({known.family: None}) if known is not None else _kinds(file.stated)
    found = (PREPROCESS[kind](config or {}, folder) for kind in kinds)
    return file._replace(preprocess=next((each for each in found if each is not None), None))


def wanted(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the names of what describes weights, for each to be fetched into the folder before the next.

    Those of texts follow if the model can be one of texts, and the parts of a tokenizer if it has no file.
    """
    yield NAMES
    config = read_object(folder / CONFIG_NAME) or {}
    is_of_images = any((folder / name).is_file() for name in processors.NAMES)
    if is_of_images or processors.timm_part(config) or "tokens" not in _kinds(_stated(config)):
        return
    yield text_files.NAMES
    if not (folder / tokenizer.NAME).is_file():
        yield text_files.PARTS


def _stated(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the settings that a `config.json` states, by the families it can be of."""
    families = {key: names.of_config(config) for key, names in FAMILIES.items()}
    return {key: fields for key, fields in families.items() if fields is not None}


def _kinds(stated: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kinds of input that models of these families read; all where there is none."""
    return tuple(dict.fromkeys(MODELS[family].input for family in stated)) or tuple(PREPROCESS)


def described_as(config: Mapping[str, Any]) -> str:
    """Return how a `config.json` calls its model; "" where it does not.

    >>> described_as({"model_type": "resnet", "hidden_act": "relu"})
    "model_type 'resnet'"
    """
    named = {key: config.get(key) for key in ("model_type", "architecture")}
    return ", ".join(
        f"{key} {name[:MAX_NAME_CHARS]!r}" for key, name in named.items() if isinstance(name, str)
    )


def label_names(config: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    """Return the names of the classes in the order of the outputs; None where they have none.

    Raises:
        UserError: the file counts them wrong.
    """
    if isinstance(config.get("id2label"), Mapping):
        by_index = {str(index): str(name) for index, name in config["id2label"].items()}
        names = [by_index.get(str(index)) for index in range(len(by_index))]
        if None in names:
            raise UserError(
                f"id2label of {where!r} does not count from 0 to {len(by_index) - 1}; {cure(where)}"
            )
        is_named = any(name != f"LABEL_{index}" for index, name in enumerate(names))
        return tuple(str(name) for name in names) if is_named else None
    # timm keeps them at the top or in its own part.
    inner = processors.timm_part(config)
    names = config.get("label_names") or inner.get("label_names")
    num_classes = config.get("num_classes", inner.get("num_classes"))
    if not names or not num_classes:
        return None
    if not isinstance(names, list) or len(names) != num_classes:
        raise UserError(
            f"{where!r} names {len(names)} classes and has num_classes {num_classes}; {cure(where)}"
        )
    return tuple(str(name) for name in names)
