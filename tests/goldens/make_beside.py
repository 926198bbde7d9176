"""Make `beside.npz`: what transformers' image processors make of a picture, and the files they save.

Run in an environment with transformers and torch: `python tests/goldens/make_beside.py`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

OUT = Path(__file__).parent / "beside.npz"
SQUARE, EDGE = {"height": 12, "width": 12}, {"shortest_edge": 16}
# Even differences of resized and cropped sides: for odd ones transformers rounds down, torchvision to even.
PROCESSORS: dict[str, tuple[type, dict[str, Any]]] = {
    "vit": (ViTImageProcessorPil, {"size": SQUARE}),
    "vit_oblong": (ViTImageProcessorPil, {"size": {"height": 8, "width": 14}, "resample": 3}),
    "deit": (DeiTImageProcessorPil, {"size": {"height": 16, "width": 16}, "crop_size": SQUARE}),
    "clip": (CLIPImageProcessorPil, {"size": EDGE, "crop_size": SQUARE}),
    "siglip": (SiglipImageProcessorPil, {"size": SQUARE}),
    "bit": (BitImageProcessorPil, {"size": EDGE, "crop_size": SQUARE, "do_normalize": False}),
    "mobilenet_v2": (MobileNetV2ImageProcessorPil, {"size": EDGE, "crop_size": SQUARE}),
    "convnext": (ConvNextImageProcessorPil, {"size": {"shortest_edge": 12}, "crop_pct": 0.75}),
    "scaled": (ViTImageProcessorPil, {"size": SQUARE, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3}),
}


def main() -> None:
    """Write the picture, and for every processor its file (JSON) and its output [channels, height, width]."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    saved: dict[str, Any] = {
        "picture": picture,
        "versions": np.array(f"transformers {transformers.__version__}"),
    }
    for name, (kind, settings) in PROCESSORS.items():
        processor = kind(**settings)
        with tempfile.TemporaryDirectory() as folder:
            processor.save_pretrained(folder)
            (path,) = Path(folder).iterdir()
            saved[f"{name}/file"] = np.array(json.dumps(json.loads(path.read_text())))
        output = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
        saved[f"{name}/output"] = np.asarray(output, np.float32)
    np.savez_compressed(OUT, **saved)


if __name__ == "__main__":
    main()
