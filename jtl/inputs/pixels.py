"""An image file's bytes → uint8 pixels [height, width, channels], by one rule for all that read them.

The first picture of several is read and turned upright as EXIF says; colour profiles are not applied. One
deeper than 8 bits is scaled by what white is (`Preprocess.white_level`). `examine` tells what is lost so.
"""

import ctypes
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageCms, ImageOps

from jtl.errors import UserError, counted, shortened
from jtl.inputs import formats, quick
from jtl.inputs.contract import Unreadable
from jtl.inputs.preprocess import Changes, Preprocess

MAX_PIXELS = 80_000_000
# A resize keeps its weights for every pixel of a side: 4 MB for one this long, gigabytes for one of 10⁸.
MAX_SIDE = 1_000_000
WHITE_16 = 65_535

SEVERAL = "hold several pages or frames: the first is read"
HIDDEN = (
    "are transparent in part: the colours beneath are read (preprocess.background=255 lays them on white)"
)
NO_PROFILE = "carry a colour profile other than sRGB, which is not applied; convert to sRGB where it matters"
CMYK = "are CMYK: converted to RGB without a colour profile; convert to sRGB where it matters"
_NAMED = 3
_REDUCED = 1
_NEW_SUBFILE_TYPE, _PHOTOMETRIC = 254, 262
# EXIF's orientation, and the first of its values that turn a picture by a quarter.
_ORIENTATION, _ON_ITS_SIDE = 274, 5
_EXIF_OF_PNG = (b"eXIf", b"Raw profile type exif")


class Facts(NamedTuple):
    """What of an image file is lost or decided in reading: sentences, and the peak of one over 8 bits."""

    remarks: tuple[str, ...] = ()
    peak: float | None = None
    is_float: bool = False


def decode(
    data: bytes,
    min_px: int = 0,
    *,
    white_level: float = 0.0,
    background: int | None = None,
    is_checked: bool = False,
    is_quick: bool = False,
) -> UInt8[np.ndarray, "height width channels"]:
    """Decode an image file's first picture, turned upright, as 1 (grey) or 3 (RGB) channels.

    With `min_px`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as no side falls under
    `min_px`. `white_level` is the value of white in pictures of more than 8 bits (0: 65,535 where a picture
    goes beyond the half of it). Transparent pixels are laid on the grey `background`; None: their alpha is
    dropped. The structure of the file is looked at, which takes 3 % of the time, unless it `is_checked`. With
    `is_quick` OpenCV decodes JPEG files where it is installed: the pixels are the same (see `quick`).

    Raises:
        Unreadable: the bytes are damaged, of another format, over `MAX_PIXELS`, or brighter than white.
    """
    if not is_checked:
        formats.check(data)
    with _opened(data) as opened:
        whole_size = opened.size
        if min_px:
            opened.draft(None, (min_px, min_px))
        quickly = quick.decoded(data, opened, whole_size) if is_quick else None
        if quickly is not None:
            return quickly
        is_deep_colour, is_inverted = _is_deep_colour(opened), _is_inverted(opened)
        upright = _upright(opened)
        if is_deep_colour:
            upright = _scaled_colour(upright, data, white_level)
        if _is_deep(upright):
            scaled = _scaled(np.asarray(upright), white_level)[..., None]
            return 255 - scaled if is_inverted else scaled
        return _to_array(upright, background)


def examine(data: bytes) -> Facts:
    """Decode an image file and return what of it is lost or decided in that.

    Raises:
        Unreadable: the bytes are damaged, of another format, or over `MAX_PIXELS`.
    """
    formats.check(data)
    with _opened(data) as opened:
        remarks = [SEVERAL] if getattr(opened, "is_animated", False) else []
        profile = opened.info.get("icc_profile") or b""
        if opened.mode == "CMYK":
            remarks.append(CMYK)
        elif profile and b"sRGB" not in profile.replace(b"\0", b"") and opened.mode not in ("L", "LA", "1"):
            remarks.append(NO_PROFILE)
        is_deep_colour = _is_deep_colour(opened)
        upright = _upright(opened)
        if _has_hidden(upright):
            remarks.append(HIDDEN)
        if not is_deep_colour and not _is_deep(upright):
            _to_array(upright, None)
            return Facts(tuple(remarks))
        values = np.asarray(upright)
        if is_deep_colour:
            # The upper bytes tell how many bits are in use, unless all of them are 0.
            values = values[..., :3].astype(np.uint32) * 256 + 255
        _check_range(values)
        return Facts(tuple(remarks), float(values.max()), bool(values.dtype.kind == "f"))


def size_of(data: bytes) -> tuple[int, int]:
    """Return (width, height) of an image file's first picture, turned upright.

    No pixel is decoded, but those of a PNG with EXIF.

    Raises:
        Unreadable: the bytes are of another format, or over `MAX_PIXELS`.
    """
    with _opened(data) as opened:
        width, height = opened.size
        # Pillow decodes a PNG to look for what may stand behind its pixels.
        may_turn = opened.format != "PNG" or any(mark in data for mark in _EXIF_OF_PNG)
        is_turned = may_turn and opened.getexif().get(_ORIENTATION, 1) >= _ON_ITS_SIDE
        return (height, width) if is_turned else (width, height)


def checked(raw: Any) -> np.ndarray:
    """Return the pixels that an example is already.

    Raises:
        Unreadable: it is no array of them, or they are over `MAX_PIXELS`.
    """
    if not isinstance(raw, np.ndarray):
        raise Unreadable(f"it is a {type(raw).__name__}, expected an image file or pixels")
    if raw.dtype != np.uint8 or raw.ndim != 3 or not raw.size:
        raise Unreadable(f"its pixels are {raw.dtype} {raw.shape}, expected uint8 [height, width, channels]")
    if raw.shape[0] * raw.shape[1] > MAX_PIXELS or max(raw.shape[:2]) > MAX_SIDE:
        raise Unreadable(
            f"its {raw.shape[1]} x {raw.shape[0]} pixels are over the limit of {MAX_PIXELS}; shrink it"
        )
    return raw


def told(found: Sequence[tuple[str, Facts]]) -> list[str]:
    """Return what is lost or decided in reading these images (name, facts), as lines for people."""
    named: dict[str, list[str]] = {}
    for name, facts in found:
        for remark in facts.remarks:
            named.setdefault(remark, []).append(name)
    lines: list[str] = []
    for remark, names in named.items():
        verb, _, rest = remark.partition(" ")
        lines.append(f"{counted(len(names), f'images {verb}')} {rest} ({_few(names)})")
    return lines


def fitted(
    preprocess: Preprocess, found: Sequence[Facts], changes: Changes, *, is_trained: bool
) -> tuple[Preprocess, list[str]]:
    """Return the pre-processing with what white is in these images, and what there is to say of that.

    A value that is there stays, unless images are brighter and it is neither the user's nor one that the
    model `is_trained` with.

    Raises:
        UserError: images are brighter than that, or some are of floats and others of integers.
    """
    deep = [facts for facts in found if facts.peak is not None]
    if not deep:
        return preprocess, []
    if len({facts.is_float for facts in deep}) > 1:
        raise UserError(
            "some images hold floats and others integers of more than 8 bits, so that no one value is white "
            "in all; expected one kind: save them alike"
        )
    peak, level = max(facts.peak or 0.0 for facts in deep), preprocess.white_level
    wanted = level_for(peak, is_float=deep[0].is_float)
    if level and peak > level and (is_trained or changes.white_level is not None):
        raise UserError(
            f"images hold values up to {peak:g} and preprocess.white_level is {level:g}; expected none above "
            f"it: convert them as those of the training were, or train with "
            f"config.preprocess.white_level={wanted:g}"
        )
    chosen = level if level >= peak and level else wanted
    how = "as set" if chosen == level else "from what they use"
    line = (
        f"{counted(len(deep), 'images hold')} more than 8 bits, values up to {peak:g}: scaled to 8 bits by "
        f"preprocess.white_level={chosen:g} ({how})"
    )
    return preprocess.with_white(chosen), [line]


def level_for(peak: float, *, is_float: bool) -> float:
    """Return the value of white in pictures that go up to `peak`: the end of the bits in use.

    >>> level_for(4000, is_float=False), level_for(0.9, is_float=True), level_for(3, is_float=False)
    (4095.0, 1.0, 255.0)
    """
    if is_float and peak <= 1:
        return 1.0
    return float(max(255, (1 << int(np.ceil(peak)).bit_length()) - 1))


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """Open an image file of a size within bounds; whatever Pillow raises becomes Unreadable."""
    try:
        with Image.open(io.BytesIO(data), formats=_readable(formats.signature(data))) as file:
            opened: Any = file
            width, height = opened.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                raise Unreadable(
                    f"its {width} x {height} pixels are over the limit of {MAX_PIXELS}, or {MAX_SIDE} a "
                    f"side; shrink it"
                )
            if opened.format == "TIFF" and opened.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED:
                raise Unreadable(
                    "its first picture is a preview, as in a camera's raw file; save it as PNG or JPEG"
                )
            yield opened
    except Unreadable:
        raise
    except Image.UnidentifiedImageError as error:
        raise formats.unknown(data) from error
    except MemoryError:
        raise  # of the machine, not of the file
    except Exception as error:  # Pillow's decoders raise almost any type on damaged bytes
        raise Unreadable(shortened(str(error)) or type(error).__name__) from error


@cache
def _readable(signature: str) -> tuple[str, ...]:
    """Return the formats that this Pillow reads, those of an extra package too where it is asked for.

    Pillow's warnings (of broken metadata and the like) are silenced: what matters is raised.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.init()
    if signature == "TIFF":
        _silence_libtiff()
    if signature == "HEIF":
        try:
            import pillow_heif  # pyright: ignore[reportMissingImports]  # not a dependency

            pillow_heif.register_heif_opener()
        except ImportError:
            pass
    return tuple(name for name in formats.FORMATS if name in Image.OPEN)


def _silence_libtiff() -> None:
    """Keep libtiff from printing on stderr what Pillow raises as well; its wheels bring the library along."""
    folder = Path(PIL.__file__).parent
    for path in [*folder.parent.glob("pillow.libs/libtiff*"), *folder.glob(".dylibs/libtiff*")]:
        try:
            ctypes.CDLL(str(path)).TIFFSetErrorHandler(None)
        except (OSError, AttributeError):
            continue


def _upright(opened: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(opened)


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _raw_mode(opened: Image.Image) -> str:
    """Return how Pillow unpacks the pixels of an opened file, such as "RGB;16B"; "" where it does not say."""
    for tile in getattr(opened, "tile", ())[:1]:
        args = tile[3]
        first = args[0] if isinstance(args, tuple) and args else args
        return first if isinstance(first, str) else ""
    return ""


def _is_deep_colour(opened: Image.Image) -> bool:
    return ";16" in _raw_mode(opened) and not _is_deep(opened)


def _is_inverted(opened: Any) -> bool:
    """Return whether 0 is white, where Pillow leaves the values as they are."""
    return opened.format == "TIFF" and _is_deep(opened) and opened.tag_v2.get(_PHOTOMETRIC) == 0


def _scaled_colour(upper: Image.Image, data: bytes, white_level: float) -> Image.Image:
    """Return a colour picture of 16 bits, of which Pillow gives the upper bytes, scaled to 8."""
    high = np.asarray(upper)
    peak = int(high[..., :3].max()) * 256 + 255
    if white_level in (0.0, WHITE_16) and peak > WHITE_16 // 2:
        return upper
    values = high[..., :3].astype(np.uint32) * 256 + _lower_bytes(data)[..., :3]
    scaled = _scaled(values, white_level)
    return Image.fromarray(np.concatenate([scaled, high[..., 3:]], axis=-1))


def _lower_bytes(data: bytes) -> np.ndarray:
    """Return the lower bytes of a colour picture of 16 bits: Pillow's upper ones in the other byte order.

    Raises:
        Unreadable: Pillow has no such order for this kind of file.
    """
    swap = {"B": "L", "L": "B"}
    with Image.open(io.BytesIO(data), formats=_readable(formats.signature(data))) as file:
        opened: Any = file
        raw_mode = _raw_mode(opened)
        other = raw_mode[:-1] + swap.get(raw_mode[-1], "")
        if opened.mode not in ("RGB", "RGBA") or not raw_mode.startswith(f"{opened.mode};16"):
            raise Unreadable("it holds 16 bits a channel and uses few of them; save it with 8 bits a channel")
        opened.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in opened.tile
        ]
        return np.asarray(_upright(opened))


def _scaled(values: Shaped[np.ndarray, "..."], white_level: float) -> UInt8[np.ndarray, "..."]:
    """Return values of more than 8 bits as 8 bits, where `white_level` becomes 255.

    Raises:
        Unreadable: what white is is not known, or a value is outside.
    """
    _check_range(values)
    peak, is_float = float(values.max()), values.dtype.kind == "f"
    if not peak:
        return np.zeros(values.shape, np.uint8)
    wanted = level_for(peak, is_float=is_float)
    level = white_level or (WHITE_16 if wanted == WHITE_16 and not is_float else 0)
    if not level:
        raise Unreadable(
            f"its values of more than 8 bits reach {peak:g}, and what white is is not known; set "
            f"config.preprocess.white_level={wanted:g}, or another value"
        )
    if peak > level or (is_float and wanted == 1 and level >= 255):
        raise Unreadable(
            f"its {values.dtype} values reach {peak:g} and preprocess.white_level is {level:g}; expected "
            f"values of that scale: convert it"
        )
    if is_float:
        return np.floor(values / level * 255 + 0.5).astype(np.uint8)
    wide = values.astype(np.uint32 if peak <= WHITE_16 else np.uint64)
    return (wide * 256 // (int(level) + 1)).astype(np.uint8)


def _check_range(values: Shaped[np.ndarray, "..."]) -> None:
    if not values.size or not np.isfinite(values.max()) or not np.isfinite(values.min()):
        raise Unreadable("some of its values are not finite; mend it")
    if values.min() < 0:
        raise Unreadable(f"its values go down to {values.min():g}; expected 0 or more: shift and scale them")


def _has_hidden(image: Image.Image) -> bool:
    """Return whether some pixels are transparent."""
    if not (image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info):
        return False
    if image.mode.startswith(("I", "F")):
        return False
    return int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < 255


def _to_array(image: Image.Image, background: int | None) -> np.ndarray:
    """Return a picture of 8 bits as grey or RGB."""
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if background is not None and _has_hidden(image):
        whole = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", whole.size, (background,) * 3 + (255,)), whole)
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of palettes with transparency
    elif image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB") or image
    found = np.asarray(image.convert(mode))
    return found[..., None] if mode == "L" else found


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
