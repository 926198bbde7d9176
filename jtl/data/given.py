"""Texts that are at hand, in no file: a source without labels."""

import hashlib
from dataclasses import dataclass
from typing import Any

from jtl.data.contract import TEXT, Info


@dataclass(frozen=True)
class Given:
    """Source of texts; `name` says where they come from."""

    texts: tuple[str, ...]
    name: str

    @property
    def info(self) -> Info:
        """Texts, without classes."""
        return Info(self.name, (), TEXT)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {"raw": self.texts[index], "label": None, "id": index}

    def labels(self) -> None:
        """Return None: there are no labels."""

    def describe(self, index: int) -> str:
        """Return the name, and which text it is of several."""
        return f"{self.name} {index + 1}" if len(self) > 1 else self.name

    def fingerprint(self, index: int) -> bytes:
        """Return a digest of the text."""
        return hashlib.blake2b(self.texts[index].encode(), digest_size=16).digest()
