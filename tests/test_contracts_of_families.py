"""The laws of DESIGN.md for every family of models, and for strategies that ask what a family is made of."""

import pytest

from jtl.models import MODELS
from tests import laws

PAIRS = [(name, "full") for name in MODELS if name != "vit"]
# Batch statistics with frozen parts.
PAIRS += [("resnet", "probe"), ("resnet", "gradual")]
# Batch statistics of single tasks, and convolutions twice differentiated.
PAIRS += [("conv_net", name) for name in ("maml", "anil", "reptile")]
# Strategies that look at inputs, layers or parameters by their names, on texts.
PAIRS += [
    ("bert", name)
    for name in ("lora", "ia3", "vpt", "bitfit", "gradual", "delta", "distillation", "dann", "co_tuning")
]
# Deep networks, several phases and second models compile for long; the others hold the laws at every change.
SLOW = [(name, "full") for name in ("resnet", "bit", "convnext", "mobilenet_v2")]
SLOW += [("resnet", "gradual"), ("conv_net", "maml"), ("conv_net", "reptile")]
SLOW += [("bert", name) for name in ("gradual", "delta", "distillation", "dann", "co_tuning")]


@pytest.fixture(params=laws.marked(PAIRS, SLOW), ids="-".join, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
def trained(pair: tuple[str, str]) -> laws.Trained:
    return laws.train(*pair)


class TestFamilies(laws.Laws):
    """Every family of models."""
