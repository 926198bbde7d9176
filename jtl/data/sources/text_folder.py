"""Source `text_folder`: folders of text files, one a class, under `train/ val/ [test/]` or un-split."""

from dataclasses import dataclass
from functools import partial

from jtl.data.contract import SourceKind
from jtl.data.sources import folder
from jtl.inputs import INPUTS

# Any other file counts as a text, and one that is no UTF-8 is reported as unreadable.
TEXTS = folder.Contents(
    INPUTS["tokens"], tuple(each for each in folder.NOTES if each not in INPUTS["tokens"].suffixes)
)


@dataclass(frozen=True)
class Config(folder.Config):
    """As for `image_folder`: `path` holds `train/`, `val/` (or `dev/`) and `test/`, or the class folders.

    For a task without labels the files may lie in any way.
    """

    name: str = "text_folder"


KIND = SourceKind(Config, partial(folder.open_folder, TEXTS), TEXTS.kind.holds)
