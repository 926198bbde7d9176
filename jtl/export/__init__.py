"""Exports: the contract every kind of artefact keeps, and the explicit dict of kinds (one file each)."""

from jtl.export import hub, onnx, saved_model, stablehlo
from jtl.export.contract import Job, Opened, Target

__all__ = ["TARGETS", "Job", "Opened", "Target"]

TARGETS: dict[str, Target] = {
    "stablehlo": stablehlo.TARGET,
    "onnx": onnx.TARGET,
    "saved_model": saved_model.TARGET,
    "timm": hub.TIMM_TARGET,
    "huggingface": hub.TRANSFORMERS_TARGET,
    "hub-folder": hub.HUB_TARGET,
}
