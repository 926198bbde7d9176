"""Which names a picture can show: one in letters that no font here has stands as its number."""

import unicodedata
from functools import cache

DEFAULT, NUMBER_SIGN = "DejaVu Sans", "#"
# Fonts of systems for the letters that matplotlib's own lacks; those that are installed are used.
OTHERS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans", "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)


@cache
def families() -> tuple[str, ...]:
    """Return the names of fonts in the order in which a letter is looked for in them."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return (DEFAULT, *(name for name in OTHERS if name in installed))


def drawable(name: str, number: int) -> str:
    """Return a name in one line if the fonts have its letters, else its number and what of it they have.

    >>> drawable("birch\\n(silver)", 1), drawable("\\U0001f332 tree", 2)
    ('birch (silver)', '#2 tree')
    """
    name = _plain(name)
    if not is_lacking(name):
        return name
    kept = "".join(letter for letter in name if ord(letter) in _letters())
    return f"{NUMBER_SIGN}{number} {_plain(kept)}".strip()


def is_lacking(name: str) -> bool:
    """Return whether the fonts lack a letter of a name.

    >>> is_lacking("caf\\u00e9"), is_lacking("\\U0001f332")
    (False, True)
    """
    return not {ord(letter) for letter in _plain(name)} <= _letters()


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", " ".join(name.split()))


@cache
def _letters() -> frozenset[int]:
    """Return the code points that the fonts have signs for."""
    from matplotlib import font_manager

    paths = [font_manager.findfont(name, fallback_to_default=False) for name in families()]
    return frozenset(code for path in paths for code in font_manager.get_font(path).get_charmap())
