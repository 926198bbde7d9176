"""Zero-shot classification: class names → the linear head that CLIP or SigLIP has for them.

A class is the mean of its prompts' embeddings (Radford et al. 2021, sec. 3.1.4). On image features of
length 1 (`model.has_unit_features`), a linear head whose kernel has the classes as columns, times the learned
factor, gives CLIP's logits; SigLIP adds its bias. So a zero-shot classifier predicts, evaluates and is
fine-tuned as any other head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32

from jtl import tree
from jtl.errors import UserError
from jtl.inputs import prompts
from jtl.weights import text_towers
from jtl.weights.contract import Config, Loaded
from jtl.weights.hub import catalogue
from jtl.weights.hub import resolve as hub
from jtl.weights.hub.download import clearing
from jtl.weights.report import NEW

HEAD, PLACE = "zero_shot", "{}"
TEMPLATES = (
    "a photo of a {}.",
    "a picture that shows the {}.",
    "a close view of a {}.",
    "a {}, seen from afar.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
)
BATCH_SIZE = 64
# What the image model's settings need beside what its file says.
MODEL_FIELDS = {"has_unit_features": True}

Embed = Callable[[Sequence[str]], Float32[np.ndarray, "texts dim"]]


def head(
    spec: str, class_names: Sequence[str], templates: Sequence[str] = (), settings: Config | None = None
) -> dict[str, np.ndarray]:
    """Return the head's leaves, "kernel" [dim, classes] and "bias" [classes], of a CLIP or SigLIP.

    `templates` are prompts with one "{}" for the name, none for `TEMPLATES`.

    Raises:
        UserError: weights or tokenizer cannot be had or read, or have no text tower; names or templates are
            empty, double or without a place.
    """
    settings, templates = settings or Config(), templates or TEMPLATES
    check(class_names, templates)
    loaded = text_towers.load(spec, replace(settings, head="new", label_map={}))
    path = _tokenizer_path(spec, loaded.path, settings)
    with clearing(path):
        tokenizer = prompts.open_tokenizer(path, loaded.model.num_tokens)
    scale, bias = loaded.model.similarity(loaded.params)
    return leaves(class_embeddings(embedder(loaded, tokenizer), class_names, templates), scale, bias)


def start(loaded: Loaded, model: Any, class_names: Sequence[str], settings: Config) -> Loaded:
    """Return loaded weights whose fresh head is made of the class names; `model` is the model's settings.

    Raises:
        UserError: features are not of length 1, or the head is not one linear layer with an output a class;
            and what `head` raises.
    """
    if not getattr(model, "has_unit_features", False):
        raise UserError(
            "weights.head is 'zero_shot' and the model's features are not of length 1; expected a ViT of "
            "CLIP or SigLIP with model.has_unit_features=True"
        )
    fresh = {name: np.shape(leaf) for name, leaf in tree.flatten(loaded.params["head"]).items()}
    num_classes = len(class_names)
    # Before the text tower is read and compiled.
    is_linear = fresh.keys() == {"kernel", "bias"} and fresh["bias"] == (num_classes,)
    made = head(loaded.source, class_names, settings.templates, settings) if is_linear else {}
    if fresh != {name: leaf.shape for name, leaf in made.items()}:
        raise UserError(
            f"weights.head is 'zero_shot' and the model's head is {fresh}; expected a kernel and a bias of "
            f"{num_classes} classes on embeddings as the texts have: set model.head_widths=(), and "
            f"model.projection_dim as the weights have it"
        )
    note = f"zero-shot, from {len(settings.templates or TEMPLATES)} prompts a class"
    rows = tuple(row._replace(note=note) if row.status == NEW else row for row in loaded.report.rows)
    return loaded._replace(params={**loaded.params, "head": made}, report=loaded.report._replace(rows=rows))


def check(class_names: Sequence[str], templates: Sequence[str]) -> None:
    """Raise UserError unless there are different names and every template has one place for them."""
    double = sorted({name for name in class_names if list(class_names).count(name) > 1})
    if double or len(class_names) < 2 or not all(name.strip() for name in class_names):
        raise UserError(
            f"zero-shot classes are {list(class_names)[:8]}; expected two different names or more, none empty"
        )
    wrong = [each for each in templates if each.count(PLACE) != 1]
    if wrong or not templates:
        raise UserError(
            f"zero-shot templates are {wrong or list(templates)}; expected one or more, each with one "
            f"{PLACE!r} for the name of the class"
        )


def embedder(loaded: text_towers.LoadedText, tokenizer: prompts.Tokenizer) -> Embed:
    """Return the function from texts to their embeddings, of length 1.

    Raises:
        UserError: the tokenizer has ids that the tower has not.
    """
    num_ids = loaded.params["token_embedding"]["embedding"].shape[0]
    if tokenizer.vocabulary > num_ids:
        raise UserError(
            f"the tokenizer has {tokenizer.vocabulary} tokens and the text tower {num_ids}; give the "
            f"tokenizer of these weights"
        )

    @jax.jit
    def apply(params: Mapping[str, Any], ids: Array) -> Array:
        return loaded.model.apply(params, ids).embeddings

    def embed(texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        ids = tokenizer.encode(texts)
        size = min(BATCH_SIZE, len(ids))
        # One shape, so that the tower is compiled once: the last batch is filled with the last text.
        padded = np.concatenate([ids, np.repeat(ids[-1:], -len(ids) % size, axis=0)])
        batches = padded.reshape(-1, size, ids.shape[1])
        # Values on the host would be copied to the device with every batch.
        params = jax.device_put(loaded.params)
        found = [apply(params, jax.device_put(batch)) for batch in batches]
        return np.concatenate(jax.device_get(found))[: len(ids)]

    return embed


def class_embeddings(
    embed: Embed, class_names: Sequence[str], templates: Sequence[str]
) -> Float32[np.ndarray, "classes dim"]:
    """Return the mean of each class's prompts, as embeddings of length 1 before and after."""
    prompts = [template.replace(PLACE, name) for name in class_names for template in templates]
    found = embed(prompts).reshape(len(class_names), len(templates), -1).mean(axis=1)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def leaves(
    embeddings: Float32[np.ndarray, "classes dim"], scale: float, bias: float
) -> dict[str, np.ndarray]:
    """Return the linear head that gives scale * cosine + bias on features of length 1.

    >>> leaves(np.eye(2, dtype=np.float32), 10.0, -1.0)["kernel"].tolist()
    [[10.0, 0.0], [0.0, 10.0]]
    """
    kernel = np.ascontiguousarray((scale * embeddings).T, np.float32)
    return {"kernel": kernel, "bias": np.full(len(embeddings), bias, np.float32)}


def _tokenizer_path(spec: str, weights: Path, settings: Config) -> Path:
    """Return where the tokenizer's file is: as told, beside the weights, or in their repository.

    Raises:
        UserError: it is in none of these places.
    """
    without_sum = replace(settings, sha256="", head="new", label_map={})
    if settings.tokenizer:
        found = hub.resolve(settings.tokenizer, without_sum).path
        return next((found / name for name in prompts.NAMES if (found / name).is_file()), found)
    folder = weights if weights.is_dir() else weights.parent
    for name in prompts.NAMES:
        if (folder / name).is_file():
            return folder / name
    faults = []
    for name in prompts.NAMES:
        try:
            if (repository := _repository(spec)) is not None:
                return hub.resolve(repository.format(name), without_sum).path
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError(f"{spec!r} has no tokenizer ({faults[0]}); or give one as weights.tokenizer")
    raise UserError(
        f"no tokenizer lies beside {str(weights)!r}; expected {' or '.join(prompts.NAMES)} there, or its "
        f"path as weights.tokenizer"
    )


def _repository(spec: str) -> str | None:
    """Return the spec of a file beside a hub's weights, with a place for its name; None for other specs."""
    scheme, separator, rest = catalogue.spec_of(spec).partition("://")
    if scheme != "hf" or not separator:
        return None
    path, at, revision = rest.partition("@")
    return f"hf://{'/'.join(path.split('/')[:2])}/{{}}{at}{revision}"
