"""Source `text_folder`: folders of text files, one a class, under `train/ val/ [test/]` or un-split."""

from dataclasses import dataclass
from functools import partial

from jtl.data.contract import SourceKind
from jtl.data.sources import folder
from jtl.inputs import INPUTS


@dataclass(frozen=True)
class Config(folder.Config):
    """As for `image_folder`: `path` holds `train/`, `val/` (or `dev/`) and `test/`, or the class folders.

    A file of any ending but those of notes counts as a text, and one that is no UTF-8 as unreadable. For a
    task without labels the files may lie in any way.
    """

    name: str = "text_folder"


KIND = SourceKind(Config, partial(folder.open_folder, INPUTS["tokens"]), INPUTS["tokens"].holds)
