"""What `jtl tune` searches: settings with the values they may take, written as SECTION.NAME=VALUES.

VALUES are a range (`0.0..0.3`), one in whose logarithm is drawn (`log:1e-5..1e-2`), whole numbers
(`int:8..64`, `logint:8..512`), or a list (`4|8|16`).
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from jtl.errors import UserError, nearest, shown
from jtl.training import config
from jtl.training.config import Config

CHOICE, LINEAR, LOG, INT, LOG_INT = "choice", "", "log", "int", "logint"
RANGE = re.compile(r"(?:(?P<kind>[a-z]+):)?(?P<low>[^.:|]*(?:\.\d[^.|]*)?)\.\.(?P<high>.+)")
EXPECTED = (
    "expected SECTION.NAME=VALUES, such as optim.learning_rate=log:1e-5..1e-2, train.batch_size=int:8..64 or "
    "strategy.rank=4|8|16"
)
# What must be the same for all trials: the data, what is measured, and the luck of the seed.
FIXED = re.compile(r"data\..*|task\.name|train\.(?:seed|monitor|minutes)|baseline")
RATE, DECAY = "optim.learning_rate=log:{low}..{high}", "optim.weight_decay=log:1e-4..0.3"
FULL_RATE, NEW_RATE = RATE.format(low="5e-5", high="5e-3"), RATE.format(low="5e-4", high="5e-2")
# Where nobody says what to search, by strategy; of another strategy the rate and the decay.
PRESETS: dict[str, tuple[str, ...]] = {
    "full": (FULL_RATE, DECAY, "optim.layer_decay=0.5..1.0"),
    "partial": (FULL_RATE, DECAY, "optim.layer_decay=0.5..1.0"),
    "probe": (NEW_RATE, DECAY),
    "lora": (NEW_RATE, DECAY, "strategy.rank=4|8|16"),
    "bitfit": (NEW_RATE, DECAY),
    "ia3": (NEW_RATE, DECAY),
    "vpt": (NEW_RATE, DECAY, "model.num_prompts=logint:2..32"),
}
OTHER = (FULL_RATE, DECAY)


class Dimension(NamedTuple):
    """A setting and the values it may take: from `low` to `high`, or one of `choices`, as text."""

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()


def read(words: Sequence[str], base: Config) -> tuple[Dimension, ...]:
    """Return what is searched, the preset of the strategy where there are no words.

    Raises:
        UserError: a word is malformed, its range empty, or it names what is no setting or not to be searched.
    """
    given = tuple(words) or PRESETS.get(base.strategy.name, OTHER)
    found = tuple(parsed(word) for word in given)
    for place, each in enumerate(found):
        if any(each.name == other.name for other in found[:place]):
            raise UserError(f"--space has {each.name} twice; expected each setting once")
        for value in ends(each):
            # What this says names the setting, and the nearest one where there is none.
            config.with_overrides(base, [(each.name, value)])
    return found


def parsed(word: str) -> Dimension:
    """Return what a word says.

    >>> parsed("optim.learning_rate=log:1e-5..1e-2")
    Dimension(name='optim.learning_rate', kind='log', low=1e-05, high=0.01, choices=())
    >>> parsed("strategy.rank=4|8").choices
    ('4', '8')

    Raises:
        UserError: it says nothing that can be searched.
    """
    name, _, text = (part.strip() for part in word.partition("="))
    if not text or "." not in name:
        raise UserError(f"--space has {shown(word)}; {EXPECTED}")
    if FIXED.fullmatch(name):
        raise UserError(f"--space names {name}, which all trials share; give --config.{name}=VALUE instead")
    found = RANGE.fullmatch(text)
    if found is None:
        choices = tuple(part.strip() for part in text.split("|"))
        if len(choices) < 2 or not all(choices) or len(set(choices)) < len(choices):
            raise UserError(f"--space has {shown(word)}, which leaves nothing to choose; {EXPECTED}")
        return Dimension(name, CHOICE, choices=choices)
    kind, known = found["kind"] or LINEAR, (LOG, INT, LOG_INT)
    if kind and kind not in known:
        raise UserError(f"--space has {shown(word)}; nearest to {kind!r}: {nearest(kind, known)}")
    low, high = (_number(found[end], word) for end in ("low", "high"))
    if not low < high:
        raise UserError(f"--space has {shown(word)}, whose range is empty; expected the lower end first")
    if kind in (LOG, LOG_INT) and low <= 0:
        raise UserError(f"--space has {shown(word)}; expected ends above 0 of a range in the logarithm")
    if kind in (INT, LOG_INT) and not (low.is_integer() and high.is_integer()):
        raise UserError(f"--space has {shown(word)}; expected whole numbers at both ends")
    return Dimension(name, kind, low, high)


def ends(each: Dimension) -> tuple[str, ...]:
    """Return the values that a setting must be able to take, as text: its choices, or both ends."""
    if each.kind == CHOICE:
        return each.choices
    return text(each, each.low), text(each, each.high)


def text(each: Dimension, value: float | str) -> str:
    """Return a value as a setting is given on the command line, whole."""
    if isinstance(value, str):
        return value
    return str(int(value)) if each.kind in (INT, LOG_INT) else repr(float(value))


def described(each: Dimension) -> str:
    """Return the values of a dimension for people.

    >>> described(Dimension("a.b", LOG, 1e-5, 1e-2)), described(Dimension("a.b", CHOICE, choices=("4", "8")))
    ('1e-05 to 0.01, in the logarithm', '4, 8')
    """
    if each.kind == CHOICE:
        return ", ".join(each.choices)
    return f"{each.low:g} to {each.high:g}{', in the logarithm' * (each.kind in (LOG, LOG_INT))}"


def _number(value: str, word: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"--space has {shown(word)}, and {shown(value)} is no number; {EXPECTED}")
    return found
