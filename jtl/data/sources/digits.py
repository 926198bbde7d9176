"""Source `digits`: 1,797 handwritten digits, 8 by 8, embedded in scikit-learn (Alpaydin and Kaynak 1998)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data import contract
from jtl.data.contract import IMAGE, Labels, Source, SourceKind
from jtl.data.sources import arrays
from jtl.errors import UserError, shown

_MAX_INK = 16


@dataclass(frozen=True)
class Config(contract.Config):
    """No network and no `path`; the set is not split, so `val_fraction` decides."""

    name: str = "digits"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path:
            raise UserError(
                f"data.path is {shown(self.path)}, but 'digits' is embedded; for your data set data.name, or "
                f"data.name=auto to have it told from the path"
            )


def open_digits(config: Config, labels: Labels) -> dict[str, Source]:
    """Open the digits as grey uint8 images."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = np.rint(found.images * (255 / _MAX_INK)).astype(np.uint8)
    return arrays.build({"train": (images, found.target)}, config, labels)


KIND = SourceKind(Config, open_digits, IMAGE)
