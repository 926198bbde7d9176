"""Folders that other libraries load as they are: weights under their names, and what says how to use them.

timm's folder (`local-dir:`, or a repository) and transformers' (`from_pretrained`) are each told by a
`config.json`; the pre-processing stands in it (timm) or beside it (transformers, with the tokenizer).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl import files, tree
from jtl import predictor as predictors
from jtl.errors import UserError
from jtl.export.contract import WEIGHTS_NAME, Job, Target
from jtl.inputs import INPUTS
from jtl.models import MODELS
from jtl.predictor import Predictor
from jtl.report import summary
from jtl.tasks import TASKS
from jtl.training import config
from jtl.weights import FAMILIES, convert
from jtl.weights.hub import processors_written
from jtl.weights.hub.processors import PROCESSOR_NAME
from jtl.weights.run_folder import write_input_files

CONFIG_NAME = "config.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TIMM_USAGE = """import timm

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(image)[None])"""
TRANSFORMERS_USAGE = """from transformers import {auto}, {reader}

model = {auto}.from_pretrained(".")
logits = model(**{reader}.from_pretrained(".")({given}, return_tensors="pt")).logits"""
# How transformers calls a task, by the kind of its labels.
PROBLEMS = {
    "class": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


class Library(NamedTuple):
    """A library to write for: its title, how its origins' keys begin, and what makes the files of a model.

    `classes(job)` → what its `config.json` says of the classes; `inputs[kind](job, folder, values)` writes
    how inputs of that kind are made, into the values of `config.json` or beside it, and returns what cannot
    be said.
    """

    title: str
    origins: tuple[str, ...]
    classes: Callable[[Job], dict[str, Any]]
    inputs: dict[str, Callable[[Job, Path, dict[str, Any]], list[str]]]


def write_for(library: Library, job: Job, folder: Path) -> list[str]:
    """Write a folder for the library, and return what was decided.

    Raises:
        UserError: it has no such model.
    """
    from safetensors.numpy import save_file

    parts = job.predictor
    family = parts.settings.model.name
    settings = MODELS[family].resolve(parts.settings.model)
    if family not in FAMILIES or MODELS[family].input not in library.inputs:
        raise UserError(f"{library.title} has no models of family {family!r}; choose another --to")
    leaves = {name: np.asarray(leaf) for name, leaf in tree.flatten(dict(parts.values)).items()}
    key, arrays = _named(library, family, leaves, settings)
    values = {**FAMILIES[family].writers[key](settings), **library.classes(job)}
    lost = library.inputs[MODELS[family].input](job, folder, values)
    summary.write_json(folder / CONFIG_NAME, values)
    save_file(arrays, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    told = f"{len(arrays)} tensors with {FAMILIES[family].origins[key].title}"
    return [told, *(f"not in the folder: {each}" for each in lost)]


def _named(
    library: Library, family: str, leaves: dict[str, np.ndarray], settings: Any
) -> tuple[str, dict[str, np.ndarray]]:
    """Return the origin of the library that has such a model, and the tensors under its names."""
    writers = FAMILIES[family].writers
    keys = [key for key in writers if key.startswith(library.origins)]
    if not keys:
        raise UserError(f"{library.title} has no models of family {family!r}; choose another --to")
    refused: list[UserError] = []
    fitting = []
    for key in keys:
        try:
            writers[key](settings)
            fitting.append(key)
        except UserError as error:
            refused.append(error)
    if not fitting:
        raise refused[0]
    return convert.of_origins(family, fitting, leaves, vars(settings))


def _timm_classes(job: Job) -> dict[str, Any]:
    num_outputs = _num_outputs(job)
    names = list(job.predictor.stats.label_names)
    return {"num_classes": num_outputs, **({"label_names": names} if len(names) == num_outputs else {})}


def _transformers_classes(job: Job) -> dict[str, Any]:
    names = job.predictor.stats.label_names or tuple(f"LABEL_{each}" for each in range(_num_outputs(job)))
    problem = _problem(job)
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        **({"problem_type": problem} if problem else {}),
    }


def _problem(job: Job) -> str:
    """Return how transformers calls the task; "" where it has no word for it."""
    return PROBLEMS.get(TASKS[job.predictor.settings.task.name].label_kind, "")


def _num_outputs(job: Job) -> int:
    assert job.predictor.task is not None, "what is exported has a head"
    return job.predictor.task.head.num_outputs


def _timm_images(job: Job, folder: Path, values: dict[str, Any]) -> list[str]:
    del folder
    inputs, lost = processors_written.timm(job.predictor.preprocess)
    values["pretrained_cfg"] = {**inputs, "num_classes": _num_outputs(job)}
    return lost


def _transformers_images(job: Job, folder: Path, values: dict[str, Any]) -> list[str]:
    processor, lost = processors_written.huggingface(job.predictor.preprocess)
    values["num_channels"] = job.predictor.preprocess.num_channels
    summary.write_json(folder / PROCESSOR_NAME, processor)
    return lost


def _transformers_texts(job: Job, folder: Path, values: dict[str, Any]) -> list[str]:
    preprocess = job.predictor.preprocess
    write_input_files(folder, INPUTS[MODELS[job.predictor.settings.model.name].input].files(preprocess))
    values["pad_token_id"] = preprocess.pad_id
    has_segments = values.get("type_vocab_size", 0) > 0
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": preprocess.max_tokens,
        "pad_token": _token(preprocess, preprocess.pad_id),
        "model_input_names": ["input_ids", *(["token_type_ids"] if has_segments else []), "attention_mask"],
    }
    summary.write_json(folder / TOKENIZER_CONFIG_NAME, tokens)
    return [f"the prefix {preprocess.prefix!r} of every text"] if preprocess.prefix else []


def _token(preprocess: Any, number: int) -> str:
    """Return how a tokenizer writes an id."""
    import tokenizers

    token = tokenizers.Tokenizer.from_file(preprocess.tokenizer).id_to_token(number)
    assert token is not None, "the pre-processing has ids of its own tokenizer"
    return token


def _library(folder: Path) -> str:
    """Return the library that a folder's config.json is of."""
    return (
        TRANSFORMERS.title if "model_type" in files.read_record(folder / CONFIG_NAME).values else TIMM.title
    )


def _usage(folder: Path, inputs: str, kind: str) -> str:
    del inputs
    return TIMM_USAGE if _library(folder) == TIMM.title else TRANSFORMERS_USAGE.format(**USAGES[kind])


def _open(folder: Path) -> Predictor:
    """Return the model as jtl reads it of the folder's files alone."""
    found = predictors.of_weights(str(folder))
    settings = config.with_overrides(found.settings, [("sharding.devices", "1")])
    return predictors.open(found._replace(settings=settings))


TIMM = Library("timm", ("timm", "torchvision"), _timm_classes, {"image": _timm_images})
TRANSFORMERS = Library(
    "transformers",
    ("huggingface",),
    _transformers_classes,
    {"image": _transformers_images, "tokens": _transformers_texts},
)
USAGES = {
    "image": {"auto": "AutoModelForImageClassification", "reader": "AutoImageProcessor", "given": "image"},
    "tokens": {"auto": "AutoModelForSequenceClassification", "reader": "AutoTokenizer", "given": "text"},
}


def write_timm(job: Job, folder: Path) -> list[str]:
    """Write a folder for timm."""
    return write_for(TIMM, job, folder)


def write_transformers(job: Job, folder: Path) -> list[str]:
    """Write a folder for transformers."""
    return write_for(TRANSFORMERS, job, folder)


def write_hub(job: Job, folder: Path) -> list[str]:
    """Write a folder for a hub: transformers' where that has such a model, else timm's."""
    try:
        return write_transformers(job, folder)
    except UserError as error:
        _emptied(folder)
        try:
            return [f"timm's folder, as transformers has no such model ({error})", *write_timm(job, folder)]
        except UserError:
            raise error from None


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


TIMM_TARGET = Target(write_timm, _open, _usage, _library, is_graph=False)
TRANSFORMERS_TARGET = Target(write_transformers, _open, _usage, _library, is_graph=False)
HUB_TARGET = Target(write_hub, _open, _usage, _library, is_graph=False, has_run_card=True)
