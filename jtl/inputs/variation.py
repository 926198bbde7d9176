"""How training images are varied: the section `augment` of the kind "image", and what of it is drawn when."""

from dataclasses import dataclass, replace
from typing import Annotated

from jtl.errors import UserError, nearest, shown
from jtl.inputs import policy
from jtl.inputs.preprocess import INTERPOLATIONS
from jtl.inputs.resize import RESIZERS
from jtl.ranges import Range, ReadIf, Share
from jtl.ranges import check as check_ranges

PartOfArea = Annotated[float, Range(above=0, high=1)]
Magnitude = Annotated[float, Range(0, policy.MAX_MAGNITUDE)]
Ratio = Annotated[float, Range(1e-3, 1e3)]
# Of a Beta distribution; beyond it all draws are one half in float32, and the quantiles cannot be had.
Alpha = Annotated[float, Range(0, 1e6)]


@dataclass(frozen=True)
class Augment:
    """How training images are varied. The defaults suit small sets of photos; everything else is off.

    On the host: a crop covering `crop_scale` (least, most) of the image's area, whose aspect ratio is
    `crop_ratio` (least, most) times the input's, is resized to the input (`interpolation`: "" takes the
    pre-processing's) by `resizer` "pillow", as in evaluation, or "opencv", which takes a seventh of the time
    and differs by about 1 of 255. It is mirrored with probability `flip`; brightness, contrast and saturation
    change by up to `color_jitter` times. `policy` is "none", "randaugment" (`policy_num_ops` operations at
    strength `policy_magnitude` of 10) or "trivialaugment" (one operation at a random strength; it reads
    neither of the two). On the device: mixup and CutMix with Beta(alpha, alpha) (0: off; both: a coin a
    batch), and random erasing with probability `erase_probability` an image, of every stream; a strategy that
    has other images beside the labelled ones takes no mixup and no CutMix.

    A strategy that learns from two views of an unlabelled image has as the weak one what all this makes of
    it, and as the strong one (see `strong`) the same crops and flips, with the policy `strong_policy`, and
    erased with `strong_erase_probability`.
    """

    crop_scale: tuple[PartOfArea, PartOfArea] = (0.35, 1.0)
    crop_ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    interpolation: str = ""
    resizer: str = "pillow"
    flip: Share = 0.5
    color_jitter: Share = 0.0
    policy: str = "none"
    policy_num_ops: Annotated[int, Range(1, 16), ReadIf("policy", ("randaugment",))] = 2
    policy_magnitude: Annotated[Magnitude, ReadIf("policy", ("randaugment",))] = 3.0
    mixup_alpha: Alpha = 0.0
    cutmix_alpha: Alpha = 0.0
    erase_probability: Share = 0.0
    strong_policy: str = "randaugment"
    strong_num_ops: Annotated[int, Range(1, 16), ReadIf("strong_policy", ("randaugment",))] = 2
    strong_magnitude: Annotated[Magnitude, ReadIf("strong_policy", ("randaugment",))] = 5.0
    strong_erase_probability: Share = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, "augment")
        for name in ("crop_scale", "crop_ratio"):
            least, most = getattr(self, name)
            if least > most:
                raise UserError(f"augment.{name} is {(least, most)}; expected (least, most)")
        if self.interpolation and self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"augment.interpolation is {shown(self.interpolation)}, expected '' or one of "
                f"{', '.join(INTERPOLATIONS)}"
            )
        if self.resizer not in RESIZERS:
            known = nearest(self.resizer, RESIZERS)
            raise UserError(f"augment.resizer {shown(self.resizer)} is unknown; nearest: {known}")
        for name in ("policy", "strong_policy"):
            value = getattr(self, name)
            if value not in policy.POLICIES:
                raise UserError(
                    f"augment.{name} {shown(value)} is unknown; nearest: {nearest(value, policy.POLICIES)}"
                )


def strong(augment: Augment) -> Augment:
    """Return the settings of the strong view: no blend, and the rest as what is weak has it.

    RandAugment and Cutout as in FixMatch (Sohn et al. 2020, sec. 2.3 and appendix C), except that there every
    operation has a strength of its own, drawn evenly, and is left out every other time; here all are at
    about the half of the reach, and the erased box is Random Erasing's.
    """
    return replace(
        augment,
        policy=augment.strong_policy,
        policy_num_ops=augment.strong_num_ops,
        policy_magnitude=augment.strong_magnitude,
        erase_probability=augment.strong_erase_probability,
        mixup_alpha=0.0,
        cutmix_alpha=0.0,
    )


def blended(augment: Augment) -> str:
    """Return which settings blend images with their targets, "" where none does."""
    found = {name: getattr(augment, name) for name in ("mixup_alpha", "cutmix_alpha")}
    return " and ".join(f"augment.{name} is {value}" for name, value in found.items() if value)


def varied(augment: Augment) -> str:
    """Return which settings draw anew whenever an image is read, "" where none does."""
    found = {
        "crop_scale": augment.crop_scale != (1.0, 1.0),
        "crop_ratio": augment.crop_ratio != (1.0, 1.0),
        "flip": 0 < augment.flip < 1,
        "color_jitter": augment.color_jitter > 0,
        "policy": augment.policy != "none",
    }
    return ", ".join(
        f"augment.{name} {shown(getattr(augment, name))}" for name, is_drawn in found.items() if is_drawn
    )


def redrawn(augment: Augment) -> str:
    """Return which settings change the images of a batch at every step, "" where none does."""
    names = ("mixup_alpha", "cutmix_alpha", "erase_probability")
    found = {name: getattr(augment, name) for name in names}
    return ", ".join(f"augment.{name} {value}" for name, value in found.items() if value)
