"""Data: the contract every source keeps, and the explicit dict of sources (one file each in `sources/`)."""

from jtl.data.contract import Config, Info, Labels, Source, SourceKind
from jtl.data.sources import arrays, digits, folder, table, text_folder, tfds, webdataset

__all__ = ["SOURCES", "Config", "Info", "Labels", "Source", "SourceKind"]

SOURCES: dict[str, SourceKind] = {
    "image_folder": folder.KIND,
    "text_folder": text_folder.KIND,
    "table": table.KIND,
    "arrays": arrays.KIND,
    "digits": digits.KIND,
    "tfds": tfds.KIND,
    "webdataset": webdataset.KIND,
}
