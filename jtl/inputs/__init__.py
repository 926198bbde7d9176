"""Kinds of input: the contract every kind keeps, and the explicit dict of kinds (one file each)."""

from jtl.inputs import image, tokens
from jtl.inputs.contract import Glimpse, Input, Inputs, Transform, Unreadable

__all__ = ["INPUTS", "Glimpse", "Input", "Inputs", "Transform", "Unreadable"]

INPUTS: dict[str, Input] = {"image": image.INPUT, "tokens": tokens.INPUT}
