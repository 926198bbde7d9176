"""How an image becomes a model's input; travels with the weights to evaluation, export and serving."""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, TypeAlias

from jtl.errors import UserError, nearest, shown
from jtl.ranges import NotNegative, Number, Positive, Range, check

INTERPOLATIONS = ("bilinear", "bicubic")
Side: TypeAlias = Annotated[int, Range(1, 2**16)]
SideOr0: TypeAlias = Annotated[int, Range(0, 2**16)]
Grey: TypeAlias = Annotated[int, Range(0, 255)]


@dataclass(frozen=True)
class Preprocess:
    """Evaluation pre-processing, timm's convention: resize the short side, crop the centre, normalise.

    `image_px` is (height, width) after the crop. `resize_px` is the short side before the crop for a square
    input; 0 resizes straight to `image_px` without keeping the aspect ratio, and with `is_squashed` neither
    is it kept before the crop: a square input comes out of `resize_px` x `resize_px`. `mean` and `std`, one
    per channel, apply to values scaled to [0, 1]; their number is the number of channels.

    `white_level` is the value of white in pictures of more than 8 bits, which are scaled by it (0: none was
    seen yet); transparent pixels are laid on the grey `background`, 0 to 255 (None: alpha is dropped).
    """

    image_px: tuple[Side, Side] = (224, 224)
    resize_px: SideOr0 = 256
    mean: tuple[Number, ...] = (0.5, 0.5, 0.5)
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    is_squashed: bool = False
    white_level: NotNegative = 0.0
    background: Grey | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_channels(self) -> int:
        """Number of image channels the model reads."""
        return len(self.mean)

    def described(self) -> str:
        """Return the pre-processing in one line, for people.

        >>> Preprocess((224, 224), 256).described()
        'short side to 256 px (bicubic), centre 224x224, mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)'
        """
        height, width = self.image_px
        sides = "both sides" if self.is_squashed else "short side"
        resized = f"{sides} to {self.resize_px} px ({self.interpolation}), centre {height}x{width}"
        squashed = f"resized to {height}x{width} ({self.interpolation})"
        white = f", white at {self.white_level:g}" if self.white_level else ""
        ground = "" if self.background is None else f", transparent on {self.background}"
        return f"{resized if self.resize_px else squashed}, mean {self.mean}, std {self.std}{white}{ground}"

    def at(self, image_px: tuple[int, int]) -> "Preprocess":
        """Return the same pre-processing for another input size, keeping the ratio of crop to resize.

        >>> Preprocess((224, 224), resize_px=256).at((448, 448)).resize_px
        512
        """
        scaled = round(self.resize_px * min(image_px) / min(self.image_px))
        return replace(self, image_px=image_px, resize_px=scaled)

    def with_white(self, white_level: float) -> "Preprocess":
        """Return the same with that value of white in pictures of more than 8 bits."""
        return replace(self, white_level=white_level)

    def with_channels(self, num_channels: int) -> "Preprocess":
        """Return the same for images of another number of channels, each with the average statistics.

        >>> Preprocess(mean=(0.25, 0.5, 0.75)).with_channels(1).mean
        (0.5,)
        """
        if num_channels == self.num_channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,) * num_channels, std=(std,) * num_channels)


@dataclass(frozen=True)
class Changes:
    """Where the pre-processing differs from what the weights bring; None and () mean "as the weights say"."""

    resize_px: SideOr0 | None = None
    mean: tuple[Number, ...] = ()
    std: tuple[Positive, ...] = ()
    interpolation: str | None = None
    white_level: Positive | None = None
    background: Grey | None = None

    def __post_init__(self) -> None:
        _check(self)


def settled(own: Preprocess, brought: Preprocess | None, changes: Changes) -> Preprocess:
    """Return the weights' pre-processing (else the model's own) at the model's size, with the user's changes.

    Raises:
        UserError: the changes are of another number of channels, or smaller than the crop.
    """
    base = own if brought is None else brought.at(own.image_px)
    given = {name: value for name, value in asdict(changes).items() if value not in (None, ())}
    mean, std = changes.mean or base.mean, changes.std or base.std
    if not len(mean) == len(std) == own.num_channels:
        raise UserError(
            f"preprocess.mean {mean} and preprocess.std {std} need {own.num_channels} values each, one per "
            f"image channel"
        )
    preprocess = replace(base, **given)
    if 0 < preprocess.resize_px < min(preprocess.image_px):
        raise UserError(
            f"preprocess.resize_px is {preprocess.resize_px}, expected 0 or at least the shorter side of the "
            f"crop, {preprocess.image_px}"
        )
    return preprocess


def _check(preprocess: Preprocess | Changes) -> None:
    """Refuse values that no pre-processing has, wherever they were read."""
    check(preprocess, "preprocess")
    if preprocess.interpolation is not None and preprocess.interpolation not in INTERPOLATIONS:
        known = nearest(preprocess.interpolation, INTERPOLATIONS)
        raise UserError(
            f"preprocess.interpolation is {shown(preprocess.interpolation)}; expected one of {known}"
        )
    if isinstance(preprocess, Preprocess) and not 0 < len(preprocess.mean) == len(preprocess.std):
        raise UserError(
            f"preprocess.mean has {len(preprocess.mean)} values and preprocess.std {len(preprocess.std)}; "
            f"expected as many, one per image channel"
        )
