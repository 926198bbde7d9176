"""Source `tfds`: a TensorFlow Datasets set prepared as array_record, read without TensorFlow.

Records are parsed and images decoded here: TFDS' own decoding needs TensorFlow or OpenCV, and takes 50-90 µs
a record where parsing takes 10. Dataset code is never imported and nothing is downloaded: only prepared
folders are read.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data import contract, label_cache, subset
from jtl.data.contract import IMAGE, Info, Labels, Source, SourceKind
from jtl.data.labels import SEPARATOR, encode_splits, unlabelled
from jtl.data.sources.folder import SPLITS
from jtl.errors import UserError, nearest
from jtl.inputs import Unreadable
from jtl.names import as_unicode

INFO_FILE = "dataset_info.json"


@dataclass(frozen=True)
class Config(contract.Config):
    """`dataset` is "name", "name/config" or either with ":1.0.0" (else the newest) under the folder `path`.

    With `path` empty, that folder is $TFDS_DATA_DIR or ~/tensorflow_datasets. With `dataset` empty, `path` is
    one prepared version itself (the folder with dataset_info.json). `image_key` and `label_key` name the
    features to read.
    """

    name: str = "tfds"
    dataset: str = ""
    image_key: str = "image"
    label_key: str = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.dataset or self.path):
            raise UserError(
                "data.dataset and data.path are both empty, expected a TFDS name, a prepared folder, or both"
            )


@dataclass(frozen=True, eq=False)
class Records:
    """Source of serialised tf.train.Example records, TFDS' own random access to them."""

    info: Info
    records: Any
    image_key: str
    values: np.ndarray | None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        label = None if self.values is None else self.values[index]
        return {"raw": self._encoded(index), "label": label, "id": index}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        return self.values

    def describe(self, index: int) -> str:
        """Name the folder, the split and the record."""
        return as_unicode(f"{self.info.name}[{index}]")

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the stored bytes."""
        return hashlib.blake2b(self._encoded(index) if raw is None else raw, digest_size=16).digest()

    def _encoded(self, index: int) -> bytes:
        try:
            return _features(self.records[index])[self.image_key].bytes_list.value[0]
        except (
            Exception
        ) as error:  # array_record and protobuf raise RuntimeError, IndexError and others on damage
            raise Unreadable("damaged record") from error


def open_tfds(config: Config, labels: Labels) -> dict[str, Source]:
    """Open the splits of a prepared set.

    Raises:
        UserError: it is not prepared, not as array_record, damaged, or lacks the features.
    """
    folder = _version_folder(config)
    builder = _builder(folder)
    _check_features(builder.info.features, config, folder)
    found = {SPLITS[name]: name for name in builder.info.splits if name in SPLITS}
    if "train" not in found and labels.names is None:
        raise UserError(
            f"{folder} has the splits {', '.join(builder.info.splits)}, expected train; name another set"
        )
    records = {
        split: _records(builder, found[split], folder) for split in contract.SPLIT_ORDER if split in found
    }
    cells = {split: _cells(folder, found[split], config.label_key, each) for split, each in records.items()}
    secret = unlabelled(cells, labels)
    cells = {split: each for split, each in cells.items() if split not in secret}
    own_names = _class_names(builder.info.features[config.label_key]) if labels.kind != "regression" else None
    encoded = encode_splits(
        cells,
        labels,
        where=lambda split, row: f"record {row} of {found[split]} in {folder}",
        own_names=own_names,
        are_places=own_names is not None,
        asked=config.labels_are,
    )
    splits: dict[str, Source] = {
        split: Records(
            Info(
                f"{folder}:{split}",
                encoded[split].names,
                notes=(*secret.values(), *encoded[split].notes),
                reading=encoded[split].reading,
            ),
            records[split],
            config.image_key,
            encoded[split].values,
        )
        for split in encoded
    }
    return subset.arrange(splits, config)


KIND = SourceKind(Config, open_tfds, IMAGE)


def _version_folder(config: Config) -> str:
    """Return the folder of one prepared version."""
    if not config.dataset:
        if not os.path.isfile(os.path.join(config.path, INFO_FILE)):
            raise UserError(
                f"data.path {config.path!r} holds no {INFO_FILE}; "
                "expected a folder TFDS prepared, or set data.dataset too"
            )
        return config.path
    root = config.path or os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets")
    name, _, version = config.dataset.partition(":")
    parent = os.path.join(root, *name.split("/"))
    versions = [each for each in _listed(parent) if re.fullmatch(r"\d+\.\d+\.\d+", each)]
    prepared = [each for each in versions if os.path.isfile(os.path.join(parent, each, INFO_FILE))]
    if (version and version not in prepared) or not prepared:
        here = f"{parent} holds {', '.join(_listed(parent)) or 'nothing'}"
        raise UserError(
            f"data.dataset {config.dataset!r} is not prepared: {here}; "
            f"{_how_to_prepare(config.dataset, root)}"
        )
    return os.path.join(parent, version or max(prepared, key=lambda each: tuple(map(int, each.split(".")))))


def _listed(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _how_to_prepare(dataset: str, root: str) -> str:
    return (
        "prepare it once with TensorFlow: pip install 'jtl[tf]' && python -c \"import tensorflow_datasets "
        "as tfds; "
        f"tfds.builder('{dataset}', data_dir='{root}', file_format='array_record').download_and_prepare()\""
    )


def _builder(folder: str) -> Any:
    import tensorflow_datasets

    # A failed import of one of its parts leaves this module half empty instead of raising.
    if not hasattr(tensorflow_datasets, "builder_from_directory"):
        raise UserError(
            "tensorflow_datasets is installed but broken; install it again: pip install 'jtl[tf]'"
        )
    try:
        return tensorflow_datasets.builder_from_directory(folder)
    except Exception as error:  # damaged metadata raises parser errors of several libraries
        raise UserError(f"cannot read the TFDS set in {folder}: {error}; prepare it again") from error


def _check_features(features: Any, config: Config, folder: str) -> None:
    for setting, key in (("image_key", config.image_key), ("label_key", config.label_key)):
        if key not in features:
            raise UserError(
                f"data.{setting} {key!r} is no feature of {folder}; nearest: {nearest(key, features)}"
            )
    kind = type(features[config.image_key]).__name__
    if kind != "Image":
        raise UserError(
            f"data.image_key {config.image_key!r} of {folder} is a {kind} feature, expected Image"
        )


def _records(builder: Any, split: str, folder: str) -> Any:
    from tensorflow_datasets import decode

    try:
        return builder.as_data_source(
            split, deserialize_method=decode.DeserializeMethod.RAW_BYTES, file_format="array_record"
        )
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"{folder} is stored as {builder.info.file_format.value}, expected array_record; "
            "in another folder, "
            f"{_how_to_prepare(builder.name, 'FOLDER')}"
        ) from error


def _features(record: bytes) -> Any:
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2  # its classes are made at run time
    return messages.Example.FromString(record).features.feature


def _cells(folder: str, split: str, key: str, records: Any) -> list[str]:
    """Return the labels of all records of a split; a record is read whole for its label, but once only."""
    return label_cache.kept(
        folder,
        (split, key),
        len(records),
        lambda: [
            _cell(records, row, key, f"record {row} of {split} in {folder}") for row in range(len(records))
        ],
    )


def _cell(records: Any, row: int, key: str, where: str) -> str:
    """Return a record's label as a table cell, the one form that `labels.encode` reads."""
    try:
        record = records[row]
        feature = _features(record)[key]
    except (
        Exception
    ) as error:  # array_record and protobuf raise RuntimeError, DecodeError and others on damage
        raise UserError(f"cannot read {where}: {error}; prepare the set again") from error
    if not record:
        raise UserError(f"cannot read {where}: it is empty, the file may be cut short; prepare the set again")
    if feature.bytes_list.value:
        return SEPARATOR.join(value.decode() for value in feature.bytes_list.value)
    return SEPARATOR.join(map(str, feature.int64_list.value or feature.float_list.value))


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """Return the names of a ClassLabel, or of a sequence of them; None where the set declares none."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return tuple(names) if names else None
