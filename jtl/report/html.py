"""HTML of parts that are escaped by construction: only what `element` made is markup, all else is text.

Names of files, classes and texts are a stranger's: none of them can become a tag or an attribute.
"""

import html
import importlib.resources
import re

# What a page may load: its own styles, and pictures that stand in it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
VOID = ("br", "img", "meta")
# Control characters that HTML has no place for.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Part = str | int | float | None


def element(tag: str, *parts: Part, **attributes: Part) -> Markup:
    """Return an element with its parts and attributes (`class_` is "class", `data_x` "data-x", None: none).

    >>> element("p", "a < b", element("b", "c"), title='"x"')
    '<p title="&quot;x&quot;">a &lt; b<b>c</b></p>'
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = together(*parts)
    return Markup(f"<{tag}{named}>" if tag in VOID else f"<{tag}{named}>{inner}</{tag}>")


def together(*parts: Part) -> Markup:
    """Return the parts one after another; what is no markup is text, None is nothing."""
    return Markup(
        "".join(each if isinstance(each, Markup) else text(str(each)) for each in parts if each is not None)
    )


def text(value: str) -> str:
    """Return a stranger's text as HTML, inside an element or a quoted attribute."""
    unicode = value.encode("utf-8", errors="backslashreplace").decode()
    return html.escape(_CONTROL.sub("\ufffd", unicode), quote=True)


def document(title: str, body: Markup) -> str:
    """Return a whole page, which needs nothing but itself."""
    path = importlib.resources.files("jtl") / "assets" / "report.css"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        Markup(f"<style>{path.read_text(encoding='utf-8')}</style>"),
    )
    page = element("html", head, element("body", body), lang="en")
    return f"<!doctype html>\n{page}\n"
