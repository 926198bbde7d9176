"""Source `tfds`: a TensorFlow Datasets set prepared as array_record, read without TensorFlow.

Images are stored as JPEG or PNG bytes and decoded here: TFDS' own decoding needs TensorFlow or OpenCV and costs more.
"""

import dataclasses
import hashlib
import threading
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from jtl.data import contract, image, subset
from jtl.data.contract import Info, Labels, Source, SourceKind
from jtl.data.labels import SEPARATOR, encode_splits
from jtl.data.sources.folder import SPLITS
from jtl.errors import UserError, nearest


@dataclass(frozen=True)
class Config(contract.Config):
    """`dataset` is the TFDS name ("cifar10", "name/config:1.0.0") and `path` the folder of prepared sets ("": TFDS' own).

    With `dataset` empty, `path` is one prepared version itself (the folder that holds `dataset_info.json`).
    `image_key` and `label_key` name the features to read.
    """

    name: str = "tfds"
    dataset: str = ""
    image_key: str = "image"
    label_key: str = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.dataset or self.path):
            raise UserError("data.dataset and data.path are both empty, expected a TFDS name, a prepared folder, or both")


KIND = SourceKind(Config, lambda config, labels: {})
