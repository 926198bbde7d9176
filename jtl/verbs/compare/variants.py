"""What `jtl compare` compares: ways to train, each a strategy with settings, written as one word.

A variant is `[LABEL=]STRATEGY[:SETTING=VALUE[;SETTING=VALUE…]]`; commas and semicolons inside brackets and
quotes belong to a value. `scratch` is no strategy but the model from random weights, all of it trained.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from jtl.errors import UserError, nearest
from jtl.strategies import STRATEGIES
from jtl.training import config
from jtl.training.config import Config
from jtl.weights.contract import NO_WEIGHTS

SCRATCH = "scratch"
FROZEN, FINE_TUNED, FROM_SCRATCH = "frozen", "fine-tuned", "from scratch"

# What a strategy stands for in the guard's questions; the configuration's own is fine-tuning, too.
ROLES = {SCRATCH: FROM_SCRATCH, "probe": FROZEN, "full": FINE_TUNED}
# A new head alone takes, and needs, a higher rate than pretrained layers.
RATE_FACTORS = {"probe": 10.0}
# From random weights there is nothing to protect in the lower layers, so they learn at the full rate.
MEANINGS = {
    SCRATCH: (("strategy.name", "full"), ("model.weights", NO_WEIGHTS), ("optim.layer_decay", "1.0")),
}
# What must be the same for all: the data, the budget, and what is measured.
FIXED = re.compile(
    r"data\..*|task\.name|train\.(?:seed|monitor|steps|epochs|batch_size)|strategy\.name|baseline"
)
LABEL = re.compile(r"[A-Za-z0-9][\w.+-]*")
OPENING, CLOSING, QUOTES = "([{", ")]}", "'\""


class Variant(NamedTuple):
    """One way to train: its label (and folder), its role in the questions ("": none), what it changes."""

    label: str
    role: str
    overrides: tuple[tuple[str, str], ...]


def defaults(base: Config) -> tuple[str, ...]:
    """Return the variants where none are listed: from scratch, frozen, and the configuration's own strategy.

    Where its own is one of the first two, fine-tuning everything takes its place.
    """
    full = next(name for name, role in ROLES.items() if role == FINE_TUNED)
    own = base.strategy.name if _role(base.strategy.name, base) == FINE_TUNED else full
    return (*(name for name, role in ROLES.items() if role != FINE_TUNED), own)


def split(text: str, separator: str) -> list[str]:
    """Return the parts between separators that stand outside brackets and quotes.

    >>> split("full,lora:strategy.targets=('query','value'),probe", ",")
    ['full', "lora:strategy.targets=('query','value')", 'probe']
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        elif letter in OPENING or letter in CLOSING:
            depth += 1 if letter in OPENING else -1
        if letter == separator and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def parse(spec: str, base: Config) -> Variant:
    """Return the variant that a word such as "low=l2_sp:strategy.alpha=0.01" means beside `base`.

    Raises:
        UserError: the word is malformed, names no strategy, or changes what all variants share.
    """
    head, _, rest = spec.partition(":")
    first, has_label, second = head.partition("=")
    name = (second if has_label else first).strip()
    label = first.strip() if has_label else name
    if name not in (*MEANINGS, *STRATEGIES):
        known = nearest(name, (*MEANINGS, *STRATEGIES))
        raise UserError(f"variant {spec!r} is of the unknown strategy {name!r}; nearest: {known}")
    if not LABEL.fullmatch(label):
        raise UserError(
            f"variant {spec!r} has the label {label!r}; expected letters, digits, '_', '.', '+' and '-': it "
            f"names a folder"
        )
    settings = [_setting(each, spec) for each in split(rest, ";")] if rest else []
    meant = MEANINGS.get(name, (("strategy.name", name),))
    given = {setting for setting, _ in settings}
    factor = RATE_FACTORS.get(name, 1.0) / RATE_FACTORS.get(base.strategy.name, 1.0)
    if factor != 1.0 and "optim.learning_rate" not in given:
        settings.append(("optim.learning_rate", f"{base.optim.learning_rate * factor:.6g}"))
    return Variant(label, _role(name, base), (*meant, *settings))


def read(specs: Sequence[str], base: Config) -> list[Variant]:
    """Return the variants in order.

    Raises:
        UserError: one is malformed, two share a label, or there is nothing to compare.
    """
    found = [parse(spec, base) for spec in specs]
    labels = [each.label for each in found]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"two variants are called {label!r}; give them labels, such as a={label} and b={label}"
            )
    if len(found) < 2:
        raise UserError(f"{len(found)} variant is listed; expected two or more to compare")
    if base.model.weights == NO_WEIGHTS:
        raise UserError(
            f"model.weights is {NO_WEIGHTS!r}; expected pretrained weights, for from random ones nothing is "
            f"transferred: set --config.model.weights"
        )
    return found


def settings(variant: Variant, base: Config) -> Config:
    """Return the configuration of the variant's runs, but for their seed or fold.

    Raises:
        UserError: a setting of the variant is unknown or out of range.
    """
    try:
        return config.with_overrides(base, (("baseline", "false"), *variant.overrides))
    except UserError as error:
        raise UserError(f"variant {variant.label!r}: {error}") from error


def _role(name: str, base: Config) -> str:
    return ROLES.get(name, FINE_TUNED if name == base.strategy.name else "")


def _setting(text: str, spec: str) -> tuple[str, str]:
    name, has_value, value = (part.strip() for part in text.partition("="))
    if not has_value or "." not in name:
        raise UserError(
            f"variant {spec!r} has the setting {text!r}; expected SECTION.NAME=VALUE, such as "
            f"strategy.alpha=0.1"
        )
    if FIXED.fullmatch(name):
        raise UserError(
            f"variant {spec!r} sets {name}; expected a setting that may differ: all share data, budget, "
            f"metric and seeds (--config.{name}={value} is for all), and the strategy is the variant's name"
        )
    return name, value
