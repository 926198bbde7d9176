"""Makes explain.npz: Grad-CAM, rollout and gradient-weighted attention, by PyTorch on timm's models.

    python -m tests.goldens.make_explain

Needs torch and timm. The formulas are the papers', written for PyTorch's hooks and shapes anew.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from jtl.weights import FAMILIES, convert
from tests.goldens import explained_models as models
from tests.goldens.make_models import import_timm


def main() -> None:
    """Write the file."""
    timm = import_timm()
    images, classes = models.images()
    given = torch.from_numpy(images).permute(0, 3, 1, 2)
    found: dict[str, np.ndarray] = {}
    shape = models.FIELDS["convnext"]
    net = timm.models.convnext.ConvNeXt(
        num_classes=models.NUM_CLASSES, depths=shape["units"], dims=shape["widths"]
    )
    found["convnext"] = grad_cam(filled(net, "convnext"), given, classes)
    shape = models.FIELDS["vit"]
    net = timm.models.vision_transformer.VisionTransformer(
        img_size=models.SIZE_PX,
        patch_size=shape["patch_px"],
        embed_dim=shape["dim"],
        depth=shape["depth"],
        num_heads=shape["heads"],
        mlp_ratio=shape["mlp_dim"] / shape["dim"],
        num_classes=models.NUM_CLASSES,
    )
    found["vit_rollout"], found["vit_gradient"] = attended(filled(net, "vit"), given, classes)
    np.savez_compressed(Path(__file__).with_name("explain.npz"), **found)


def filled(net: Any, family: str) -> Any:
    """Return the model with the drawn values, loaded strictly."""
    origin = FAMILIES[family].origins["timm"]
    arrays, _ = convert.to_origin(origin, models.leaves(family))
    net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
    return net.eval()


def grad_cam(net: Any, images: Any, classes: np.ndarray) -> np.ndarray:
    """Return relu(Σ_k mean(∂logit/∂A_k) A_k) of the last stage's output A."""
    kept: dict[str, Any] = {}

    def keep(module: Any, given: Any, output: Any) -> None:
        output.retain_grad()
        kept["map"] = output

    net.stages[-1].register_forward_hook(keep)
    logits = net(images)
    logits[torch.arange(len(images)), torch.from_numpy(classes)].sum().backward()
    maps, slopes = kept["map"], kept["map"].grad
    cam = (slopes.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).clamp(min=0)
    return cam.detach().numpy()


def attended(net: Any, images: Any, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rollout and gradient-weighted relevance of the grid for the class token."""
    kept: list[Any] = []
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, given, output: _keep(kept, output))
    logits = net(images)
    logits[torch.arange(len(images)), torch.from_numpy(classes)].sum().backward()
    num_tokens = kept[0].shape[-1]
    eye = torch.eye(num_tokens)
    rollout = weighted = eye.expand(len(images), num_tokens, num_tokens)
    for weights in kept:
        mean = 0.5 * weights.mean(dim=1) + 0.5 * eye
        rollout = mean / mean.sum(dim=-1, keepdim=True) @ rollout
        positive = (weights * weights.grad).clamp(min=0).mean(dim=1)
        weighted = weighted + positive @ weighted
    side = round((num_tokens - 1) ** 0.5)
    both = (each[:, 0, 1:].reshape(-1, side, side).detach().numpy() for each in (rollout, weighted))
    return tuple(both)


def _keep(kept: list[Any], output: Any) -> None:
    output.retain_grad()
    kept.append(output)


if __name__ == "__main__":
    main()
