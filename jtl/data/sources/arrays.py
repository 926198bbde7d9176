"""Source `arrays`: images and labels as arrays in one `.npz` file."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jtl.data import contract, npz, subset
from jtl.data.classes import few
from jtl.data.contract import IMAGE, NO_LABELS, Info, Labels, Source, SourceKind
from jtl.data.labels import SEPARATOR, encode_splits, unlabelled
from jtl.errors import UserError, nearest
from jtl.names import as_unicode

# NumPy's kinds of numbers: signed, unsigned, float.
NUMBER_KINDS = "iuf"
# The names in use: Keras', MedMNIST's, and a file that is not split.
KEY_PATTERNS = (
    ("x_{split}", "y_{split}"),
    ("{split}_images", "{split}_labels"),
    ("images", "labels"),
    ("x", "y"),
)
# Images without labels beside those that have some, as STL-10 has.
UNLABELLED_KEYS = ("x_unlabelled", "unlabelled_images", "x_unlabeled", "unlabeled_images")


@dataclass(frozen=True)
class Config(contract.Config):
    """`path` is an `.npz` file of uint8 images [n, height, width(, channels)] and a label or a row each.

    `image_keys` and `label_keys` name its arrays, with `{split}` for train, val and test ("x_{split}"); ""
    finds the customary names: x_train and y_train, train_images and train_labels, images and labels. Labels
    are names or numbers of classes, multi-hot rows (multilabel) or numbers (regression). An array
    `label_names` gives the classes their names; numbers are then places among them. Images without labels may
    stand beside them, as `x_unlabelled` or `unlabelled_images` (`data.unlabelled`).
    """

    name: str = "arrays"
    image_keys: str = ""
    label_keys: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.image_keys) != bool(self.label_keys):
            raise UserError("data.image_keys and data.label_keys go together: set both or none")


@dataclass(frozen=True, eq=False)
class Arrays:
    """Source of images in memory, [n, height, width, channels]."""

    info: Info
    images: np.ndarray
    values: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        label = None if self.values is None else self.values[index]
        return {"raw": self.images[index], "label": label, "id": index}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        return self.values

    def describe(self, index: int) -> str:
        """Name the file and the row."""
        return as_unicode(f"{self.info.name}[{index}]")

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes."""
        del raw
        return hashlib.blake2b(np.ascontiguousarray(self.images[index]).tobytes(), digest_size=16).digest()


def open_arrays(config: Config, labels: Labels) -> dict[str, Source]:
    """Open the splits of an `.npz` file.

    Raises:
        UserError: the file is missing, damaged or holds pickles, or its arrays do not fit together.
    """
    found = _names(config)
    are_read = labels.kind != NO_LABELS
    keys = _find_keys(found, config, needs_labels=are_read)
    wanted = [*dict.fromkeys(name for pair in keys.values() for name in (pair if are_read else pair[:1]))]
    arrays = npz.read(config.path, [*wanted, *({"label_names"} & set(found))])
    own_names = tuple(map(str, arrays["label_names"])) if "label_names" in arrays else None
    pairs = {
        split: (arrays[images], arrays[targets] if are_read else np.zeros(arrays[images].shape[:1], np.int64))
        for split, (images, targets) in keys.items()
    }
    return build(pairs, config, labels, own_names=own_names)


def open_unlabelled(config: Config) -> Source | None:
    """Open the images of an `.npz` file that stand there without labels, None: there are none.

    Raises:
        UserError: the file is missing, damaged or holds pickles, or its arrays are no images.
    """
    key = next((name for name in UNLABELLED_KEYS if name in _names(config)), None)
    if key is None:
        return None
    images = _checked_images(npz.read(config.path, [key])[key], f"{config.path}: {key}")
    return Arrays(Info(f"{config.path}:{key}", ()), images, None)


KIND = SourceKind(Config, open_arrays, IMAGE, open_unlabelled)


def build(
    pairs: dict[str, tuple[Shaped[np.ndarray, "..."], Shaped[np.ndarray, "..."]]],
    config: contract.Config,
    labels: Labels,
    *,
    own_names: tuple[str, ...] | None = None,
) -> dict[str, Source]:
    """Open splits from (images, labels) in memory.

    Raises:
        UserError: images are not uint8 [n, height, width(, channels)], or labels do not fit them.
    """
    name = config.path or config.name
    if "train" not in pairs and labels.names is None:
        raise UserError(f"{name} holds {', '.join(pairs)} but no train split; add it")
    images = {split: _checked_images(pair[0], f"{name}: {split} images") for split, pair in pairs.items()}
    cells: dict[str, list[str]] = {}
    are_words = False
    for split, (_, targets) in pairs.items():
        if targets.ndim == 0 or len(targets) != len(images[split]):
            raise UserError(
                f"{name}: {len(images[split])} {split} images but labels of shape {targets.shape}"
            )
        if len(targets) == 0:
            raise UserError(f"{name}: the {split} split has no examples")
        cells[split] = _cells(targets, labels.kind, f"{name}: {split} labels")
        are_words |= targets.dtype.kind not in NUMBER_KINDS
        if labels.kind == "multilabel" and targets.ndim == 2 and own_names is None:
            own_names = labels.names or tuple(str(place) for place in range(targets.shape[1]))
    secret = unlabelled(cells, labels)
    cells = {split: each for split, each in cells.items() if split not in secret}
    encoded = encode_splits(
        cells,
        labels,
        where=lambda split, row: f"{name}: {split} label {row}",
        own_names=own_names,
        are_places=own_names is not None and not are_words,
        asked=config.labels_are,
    )
    splits: dict[str, Source] = {
        split: Arrays(
            Info(
                f"{name}:{split}", found.names, notes=(*secret.values(), *found.notes), reading=found.reading
            ),
            images[split],
            found.values,
        )
        for split, found in encoded.items()
    }
    return subset.arrange(splits, config)


def _names(config: Config) -> list[str]:
    if not config.path:
        raise UserError("data.path is empty, expected an .npz file; set config.data.path")
    if not os.path.isfile(config.path):
        raise UserError(f"data.path {config.path!r} is no file; expected an .npz file")
    return npz.names(config.path)


def _find_keys(found: list[str], config: Config, *, needs_labels: bool) -> dict[str, tuple[str, str]]:
    """Return the names of the images and labels of every split in the file."""
    patterns = ((config.image_keys, config.label_keys),) if config.image_keys else KEY_PATTERNS
    for images, targets in patterns:
        keys: dict[str, tuple[str, str]] = {}
        for split in contract.SPLIT_ORDER if "{split}" in images else contract.SPLIT_ORDER[:1]:
            pair = (images.format(split=split), targets.format(split=split))
            if needs_labels and pair[0] in found and pair[1] not in found:
                raise UserError(
                    f"{config.path} holds {pair[0]!r} but no {pair[1]!r}; it holds {few(found, 20)}"
                )
            if pair[0] in found:
                keys[split] = pair
        if keys:
            return keys
    wanted = patterns[0][0].format(split="train")
    raise UserError(
        f"{config.path} holds {few(found, 20)}; expected images as {wanted!r} (nearest: "
        f"{nearest(wanted, found)}); "
        "set data.image_keys and data.label_keys"
    )


def _checked_images(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype != np.uint8:
        raise UserError(f"{what} are {images.dtype}, expected uint8 (0 to 255); scale and convert them")
    if images.ndim not in (3, 4):
        raise UserError(
            f"{what} have shape {images.shape}, expected [n, height, width] or [n, height, width, channels]"
        )
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise UserError(
            f"{what} have shape {images.shape}, channels first; expected them last: transpose(0, 2, 3, 1)"
        )
    return images if images.ndim == 4 else images[..., None]


def _cells(targets: np.ndarray, kind: str, what: str) -> list[str]:
    """Return labels as the cells of a table, the one form that `labels.encode` reads."""
    if targets.ndim > 2:
        raise UserError(f"{what} have shape {targets.shape}, expected [n] or [n, values]")
    if kind == "multilabel" and targets.ndim == 2:
        if not np.isin(targets, (0, 1)).all():
            raise UserError(f"{what} hold other values than 0 and 1, expected one 0 or 1 a class")
        return [SEPARATOR.join(map(str, np.flatnonzero(row))) for row in targets]
    if targets.ndim == 2 and targets.shape[1] != 1 and kind == "class":
        raise UserError(f"{what} have shape {targets.shape}, expected one class an image")
    if targets.ndim == 2:
        return [SEPARATOR.join(map(str, row)) for row in targets.tolist()]
    return [str(value) for value in targets.tolist()]
