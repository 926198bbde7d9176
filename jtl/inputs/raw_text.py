"""A raw example as text: what a source holds of one, checked."""

from typing import Any

import numpy as np

from jtl.inputs.contract import Glimpse, Unreadable

BYTE_ORDER_MARK = "\ufeff"
# What a report shows of a text.
MAX_SHOWN = 600


def texts_of(raw: Any) -> tuple[str, ...]:
    r"""Return the text or the two texts of a raw example; of a file's bytes without their last line end.

    >>> texts_of(b"good\n"), texts_of(("a", "b"))
    (('good',), ('a', 'b'))

    Raises:
        Unreadable: it is neither, or not Unicode.
    """
    if isinstance(raw, bytes):
        return (_decoded(raw),)
    if isinstance(raw, str):
        return (_checked(raw),)
    if isinstance(raw, tuple | list) and len(raw) == 2 and all(isinstance(each, str) for each in raw):
        return (_checked(raw[0]), _checked(raw[1]))
    raise Unreadable(f"expected a text or a pair of texts, found {_kind(raw)}")


def glimpse(raw: Any, *, is_shown: bool = True) -> Glimpse:
    """Return the beginning of a text, of a pair of texts both, and how many letters it has.

    >>> glimpse(("one", "two"))
    Glimpse(picture=b'', text='one | two', size={'letters': 6})

    Raises:
        Unreadable: it is no text.
    """
    texts = texts_of(raw)
    shown = " | ".join(texts)
    shown = shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 1] + "…"
    return Glimpse(text=shown if is_shown else "", size={"letters": sum(map(len, texts))})


def _decoded(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"it is no UTF-8 (byte {error.start} is 0x{raw[error.start]:02x}); save it as UTF-8"
        ) from error
    return text.removeprefix(BYTE_ORDER_MARK).removesuffix("\n").removesuffix("\r")


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unreadable(
            f"character {error.start} is half of a surrogate pair, which no Unicode text has; mend it"
        ) from error
    return text


def _kind(raw: Any) -> str:
    if isinstance(raw, np.ndarray):
        return f"an array {raw.dtype} {raw.shape}: is this an image set?"
    return f"a {type(raw).__name__}" + (f" of {len(raw)}" if isinstance(raw, tuple | list) else "")
