"""Explanations of texts: tokens by name, as coloured HTML and as lines for a terminal."""

import html
from typing import Any, NamedTuple

import numpy as np

from jtl.errors import reading
from jtl.inputs.tokens import Preprocess

TEXT, SPECIAL, PADDING = "text", "special", "padding"
# Red speaks for the class, blue against it: both end as far from white.
FOR, AGAINST = (214, 69, 65), (52, 119, 196)
BAR = 12
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>jtl explain</title><style>
body {{ font: 16px/1.9 system-ui, sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em; }}
body {{ color: #1c1c1c; background: #fff; }}
h2 {{ font-size: 1em; margin: 2em 0 .3em; }}
.t {{ padding: .15em .1em; border-radius: .2em; color: #1c1c1c; }}
.s {{ color: #777; font-size: .8em; }}
</style></head><body>
<h1>What the classes hang on</h1>
<p>{legend}</p>
{texts}
</body></html>
"""


class Piece(NamedTuple):
    """One token: how it is written, what it is (text, special or padding), and what it adds to the class."""

    text: str
    kind: str
    value: float


def pieces(inputs: Any, preprocess: Preprocess, relevance: np.ndarray) -> list[Piece]:
    """Return the tokens of one example with their relevance, padding left out."""
    import tokenizers

    with reading(f"tokenizer {preprocess.tokenizer!r}"):
        opened = tokenizers.Tokenizer.from_file(preprocess.tokenizer)
        names = [opened.id_to_token(int(each)) or str(each) for each in inputs["ids"]]
    found = []
    for name, number, is_there, value in zip(names, inputs["ids"], inputs["mask"], relevance, strict=True):
        kind = SPECIAL if int(number) in preprocess.special_ids else TEXT
        if is_there:
            found.append(Piece(name, kind, float(value)))
    return found


def as_html(found: list[Piece]) -> str:
    """Return the tokens as HTML, coloured by their share of the largest value.

    >>> as_html([Piece("good", TEXT, 2.0), Piece("<s>", SPECIAL, 0.0)])[:64]
    '<span class="t" style="background: rgb(214 69 65 / 1.00)" title='
    """
    largest = max((abs(piece.value) for piece in found), default=0.0) or 1.0
    return " ".join(_span(piece, abs(piece.value) / largest) for piece in found)


def page(texts: list[tuple[str, list[Piece]]], *, is_signed: bool, method: str) -> str:
    """Return a page of titles and texts."""
    against = "blue against it; " if is_signed else ""
    legend = (
        f"By {method}: red speaks for the class, {against}the strongest token of a text has the full colour. "
        f"Small grey tokens are the tokenizer's own; padding is left out."
    )
    shown = "\n".join(f"<h2>{html.escape(title)}</h2>\n<p>{as_html(found)}</p>" for title, found in texts)
    return PAGE.format(legend=html.escape(legend), texts=shown)


def rows(found: list[Piece]) -> list[list[str]]:
    """Return a line a token for a terminal: how it is written, its value, and a bar.

    >>> rows([Piece("good", TEXT, 2.0), Piece("[SEP]", SPECIAL, -1.0)])
    [['good', '+2.000', '++++++++++++'], ['[SEP] (special)', '-1.000', '------']]
    """
    largest = max((abs(piece.value) for piece in found), default=0.0) or 1.0
    return [
        [
            piece.text if piece.kind == TEXT else f"{piece.text} ({piece.kind})",
            f"{piece.value:+.3f}",
            ("+" if piece.value > 0 else "-") * round(BAR * abs(piece.value) / largest),
        ]
        for piece in found
    ]


def _span(piece: Piece, share: float) -> str:
    red, green, blue = FOR if piece.value > 0 else AGAINST
    style = f"background: rgb({red} {green} {blue} / {share:.2f})"
    kind = "t" if piece.kind == TEXT else "t s"
    return f'<span class="{kind}" style="{style}" title="{piece.value:+.4f}">{html.escape(piece.text)}</span>'
