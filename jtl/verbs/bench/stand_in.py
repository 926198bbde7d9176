"""A small data set that stands in where a configuration's own cannot be opened: files, read as a user's are.

Photos are JPEG files of coarse noise, texts are words of a tokenizer that is written beside them where none
came. Equal calls write equal files.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jtl.training.config

NUM_CLASSES, NUM_EXAMPLES = 10, 64
# Height and width of a photo, JPEG's quality, and the side of the noise that it is enlarged from.
PHOTO_PX, QUALITY, GRAIN_PX = (300, 400), 90, 40
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORDS = 1000
TABLE, TARGET_TABLE, TOKENIZER = "data.csv", "target.csv", "tokenizer.json"


class Examples(NamedTuple):
    """The column that a table has for examples, what stands in it, and what the examples are, for people."""

    column: str
    cells: list[str]
    described: str


def with_data(
    settings: "jtl.training.config.Config", folder: Path, num_examples: int = NUM_EXAMPLES
) -> tuple["jtl.training.config.Config", str]:
    """Return the settings reading files that are written into `folder`, and a line that says what they are.

    Texts are as long as the longest of `inputs.buckets`. There is no validation split.
    """
    from jtl.data import SOURCES
    from jtl.tasks import TASKS
    from jtl.training.config import input_of

    settings = with_tokenizer(settings, folder)
    found = EXAMPLES[input_of(settings.model).holds](folder, num_examples, settings.inputs.buckets[-1])
    labels = LABELS[TASKS[settings.task.name].label_kind]
    _write(folder / TABLE, found, labels)
    _write(folder / TARGET_TABLE, found, LABELS["none"])
    data = SOURCES["table"].Config(
        name="table",
        path=str(folder / TABLE),
        val_fraction=0.0,
        target=str(folder / TARGET_TABLE),
        has_target_labels=False,
        # What takes none refuses them.
        unlabelled=str(folder / TARGET_TABLE) if settings.data.unlabelled else "",
    )
    # They need a validation split.
    train = replace(settings.train, patience=0, min_gain=0.0, monitor="")
    return replace(settings, data=data, train=train), f"{num_examples} {found.described} stand in"


def with_tokenizer(settings: "jtl.training.config.Config", folder: Path) -> "jtl.training.config.Config":
    """Return the settings with a tokenizer, written into `folder`, where texts are read and none can come."""
    from jtl.models import MODELS
    from jtl.training.config import input_of
    from jtl.weights.contract import NO_WEIGHTS

    has_own = settings.model.weights != NO_WEIGHTS or getattr(settings.preprocess, "tokenizer", "")
    if not hasattr(settings.preprocess, "tokenizer") or has_own:
        return settings
    assert input_of(settings.model).holds == "text", "what has a tokenizer reads texts"
    vocabulary = MODELS[settings.model.name].resolve(settings.model).vocabulary
    words = _words(vocabulary)
    (folder / TOKENIZER).write_text(json.dumps(_tokenizer(words)), encoding="utf-8")
    preprocess = replace(settings.preprocess, tokenizer=str(folder / TOKENIZER))
    return replace(settings, preprocess=preprocess)


def photos(folder: Path, num_examples: int, length: int = 0) -> Examples:
    """Write JPEG files of noise."""
    import numpy as np
    from PIL import Image

    del length
    height, width = PHOTO_PX
    random = np.random.default_rng(0)
    cells = []
    for index in range(num_examples):
        coarse = random.integers(0, 256, (height // GRAIN_PX, width // GRAIN_PX, 3), np.uint8)
        smooth = np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16
        )
        grain = random.integers(-8, 9, (height, width, 1), np.int16)
        image = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        cells.append(f"{index}.jpg")
        image.save(folder / cells[-1], quality=QUALITY)
    return Examples("path", cells, f"JPEG files of noise, {width} x {height},")


def texts(folder: Path, num_examples: int, length: int) -> Examples:
    """Return texts of so many words, those of the tokenizer that may lie in the folder or English ones."""
    import numpy as np

    path = folder / TOKENIZER
    known = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"] if path.is_file() else {}
    words = [word for word in known if word not in SPECIAL] or ["a", "the", "good", "bad", "film", "book"]
    drawn = np.random.default_rng(0).integers(0, len(words), (num_examples, max(1, length)))
    # With the special tokens a little longer than that, and cut.
    cells = [" ".join(words[place] for place in row) for row in drawn]
    return Examples("text", cells, f"texts of {length} random words")


# By what examples of a kind of input are (`Input.holds`).
EXAMPLES: Mapping[str, Callable[[Path, int, int], Examples]] = {"image": photos, "text": texts}


def _class_cell(index: int) -> str:
    return f"class{index % NUM_CLASSES}"


def _classes_cell(index: int) -> str:
    return f"class{index % NUM_CLASSES};class{(index + 1) % NUM_CLASSES}"


def _number_cell(index: int) -> str:
    return str(index % NUM_CLASSES - 4.5)


# By the kind of labels that a task reads; None: none.
LABELS: Mapping[str, Callable[[int], str] | None] = {
    "class": _class_cell,
    "multilabel": _classes_cell,
    "regression": _number_cell,
    "none": None,
}


def _write(path: Path, found: Examples, label: Callable[[int], str] | None) -> None:
    rows = [[cell, *([label(index)] if label else [])] for index, cell in enumerate(found.cells)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[found.column, *(["label"] if label else [])], *rows])


def _words(vocabulary: int) -> Sequence[str]:
    """Return the tokens of a vocabulary of at most that size, the special ones first."""
    num_words = max(1, min(vocabulary, MAX_WORDS) - len(SPECIAL))
    return (*SPECIAL, *(f"w{index}" for index in range(num_words)))


def _tokenizer(words: Sequence[str]) -> dict[str, object]:
    """Return what tokenizer.json says: words at white space, [CLS] and [SEP] around them."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    made = tokenizers.Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, words.index(word)) for word in ("[CLS]", "[SEP]")],
    )
    made.add_special_tokens(list(SPECIAL))
    return json.loads(made.to_str())
