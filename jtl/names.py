"""Names from file systems, tables and archives, as they are compared and as they are written."""

import unicodedata

# Python's form of a byte that is no UTF-8 in a file name is U+DC00 and the byte.
BYTE_BEGIN, BYTE_END, BYTE_BASE = "\udc80", "\udcff", 0xDC00


def as_unicode(text: str) -> str:
    r"""Return a name that every file and screen can hold: what is no Unicode in it stands as its bytes.

    Only names that are shown or stored go through here; files are opened by their real ones.

    >>> as_unicode("caf\udce9"), as_unicode("café")
    ('caf\\xe9', 'café')
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return "".join(map(_written, text))


def is_unicode(text: str) -> bool:
    r"""Return whether libraries that write names as UTF-8 can open a file of that name.

    >>> is_unicode("caf\udce9"), is_unicode("café")
    (False, True)
    """
    return as_unicode(text) == text


def plain_name(name: str) -> str:
    r"""Return the one form of a name by which names are compared: Unicode, composed (NFC).

    >>> plain_name("cafe\u0301") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", as_unicode(name))


def _written(character: str) -> str:
    if BYTE_BEGIN <= character <= BYTE_END:
        return f"\\x{ord(character) - BYTE_BASE:02x}"
    return f"\\u{ord(character):04x}" if "\ud800" <= character <= "\udfff" else character
