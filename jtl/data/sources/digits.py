"""Source `digits`: 1,797 handwritten digits, 8 by 8, embedded in scikit-learn (Alpaydin and Kaynak 1998)."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jtl.data import contract
from jtl.data.contract import IMAGE, Labels, Source, SourceKind
from jtl.data.sources import arrays
from jtl.errors import UserError, shown

_SHAPE, _MAX_INK = (8, 8), 16


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
    rows = np.loadtxt(_path(), delimiter=",")
    images = np.rint(rows[:, :-1].reshape(-1, *_SHAPE) * (255 / _MAX_INK)).astype(np.uint8)
    return arrays.build({"train": (images, rows[:, -1].astype(np.int64))}, config, labels)


def _path() -> Path:
    """Return the file itself: importing the package around it takes over a second."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None, "scikit-learn is a requirement of jtl"
    assert found.submodule_search_locations, "scikit-learn is a package"
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


KIND = SourceKind(Config, open_digits, IMAGE)
