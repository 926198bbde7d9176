"""Strategies: the record every way of transferring fills, and the explicit dict of them (one file each)."""

from jtl.strategies import (
    bi_tuning,
    bitfit,
    bss,
    cdan,
    co_tuning,
    dan,
    dann,
    delta,
    distillation,
    full,
    gradual,
    ia3,
    l2_sp,
    lora,
    lp_ft,
    mcc,
    mdd,
    partial,
    probe,
    proto_net,
    vpt,
)
from jtl.strategies.contract import FROZEN, Classifier, Context, Group, Strategy, StrategyKind

__all__ = ["FROZEN", "STRATEGIES", "Classifier", "Context", "Group", "Strategy", "StrategyKind"]

STRATEGIES: dict[str, StrategyKind] = {
    "full": full.KIND,
    "probe": probe.KIND,
    "partial": partial.KIND,
    "gradual": gradual.KIND,
    "lp_ft": lp_ft.KIND,
    "lora": lora.KIND,
    "bitfit": bitfit.KIND,
    "l2_sp": l2_sp.KIND,
    "bss": bss.KIND,
    "dann": dann.KIND,
    "cdan": cdan.KIND,
    "mcc": mcc.KIND,
    "mdd": mdd.KIND,
    "dan": dan.KIND,
    "delta": delta.KIND,
    "co_tuning": co_tuning.KIND,
    "bi_tuning": bi_tuning.KIND,
    "ia3": ia3.KIND,
    "distillation": distillation.KIND,
    "vpt": vpt.KIND,
    "proto_net": proto_net.KIND,
}
