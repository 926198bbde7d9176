"""Texts in memory, with labels or without: what the table source opens."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data.contract import Info
from jtl.names import as_unicode

Text = str | tuple[str, str]


@dataclass(frozen=True, eq=False)
class Texts:
    """Source of texts, or pairs of them: one row of `values` each (None: no labels).

    `numbers` are their rows in the file `path`, as people count them.
    """

    info: Info
    texts: tuple[Text, ...]
    values: np.ndarray | None
    path: str
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        label = None if self.values is None else self.values[index]
        return {"raw": self.texts[index], "label": label, "id": index}

    def labels(self) -> np.ndarray | None:
        """Return the labels of all examples."""
        return self.values

    def describe(self, index: int) -> str:
        """Name the row of the file."""
        return as_unicode(f"row {self.numbers[index]} of {self.path}")

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of the UTF-8 bytes, of a pair's texts with their lengths."""
        del raw
        return fingerprint(self.texts[index])


def fingerprint(text: Text) -> bytes:
    """Return a digest of a text, or of a pair."""
    digest = hashlib.blake2b(digest_size=16)
    parts = [text] if isinstance(text, str) else text
    for part in parts:
        # A lone half of a surrogate pair is told when the text is read.
        data = part.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
