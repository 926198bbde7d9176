"""Inputs and weights drawn by numpy from names and shapes, alike in the goldens' scripts and the tests."""

import math
import zlib

import numpy as np

NUM_CLASSES = 10
NUM_SAMPLES = 32
RESNET_IMAGES, VIT_IMAGES = (4, 128, 128, 3), (2, 32, 48, 3)
REAL_VIT_IMAGES, CIFAR_IMAGES = (2, 224, 224, 3), (8, 32, 32, 3)
TEXT_TOKENS, TEXT_LENGTHS, ONE_SEGMENT = 20, (20, 7, 13), ("roberta", "real/minilm_l6")
CONVNET_IMAGES = (4, 72, 50, 3)


def generator(name: str) -> np.random.Generator:
    """Return the random numbers that belong to a name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def images(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return normalised images [batch, height, width, channels] as the model sees them."""
    return generator(f"images of {name}").standard_normal(shape, np.float32)


def texts(name: str, vocabulary: int = 50) -> dict[str, np.ndarray]:
    """Return ids, segments and mask of three texts: one of full length, two padded with other ids.

    No id is below 2, of which transformers takes one for padding.
    """
    random = generator(f"texts of {name}")
    mask = np.arange(TEXT_TOKENS)[None] < np.array(TEXT_LENGTHS)[:, None]
    ids = random.integers(2, vocabulary, mask.shape)
    segments = (np.arange(TEXT_TOKENS)[None] >= np.array(TEXT_LENGTHS)[:, None] // 2) & mask
    # RoBERTa tells positions by the ids: where there is padding it must stand.
    ids = np.where(mask, ids, 1) if name in ONE_SEGMENT else ids
    segments = segments & (name not in ONE_SEGMENT)
    return {"ids": ids.astype(np.int32), "segments": segments.astype(np.int32), "mask": mask}


def tensor(model: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the value of the tensor of that PyTorch name; activations keep their size through any depth."""
    random = generator(f"{model}/{name}")
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1 and name.endswith("weight"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        return 0.2 * random.standard_normal(shape, np.float32)
    return math.sqrt(1 / math.prod(shape[1:])) * random.standard_normal(shape, np.float32)


def sampled(name: str, values: np.ndarray) -> np.ndarray:
    """Return a few values at places that depend on the name, then the mean and root mean square of all."""
    flat = np.asarray(values, np.float64).reshape(-1)
    places = generator(f"places of {name}").integers(0, flat.size, NUM_SAMPLES)
    return np.concatenate([flat[places], [np.mean(flat), np.sqrt(np.mean(flat**2))]])


def keras_tensor(model: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the value of the variable 'layer/variable' of Keras or Flax, as `tensor` does for PyTorch's."""
    random = generator(f"{model}/{name}")
    if name.endswith(("/gamma", "/moving_variance", "/scale", "/var")):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        return 0.2 * random.standard_normal(shape, np.float32)
    # Depthwise kernels are [height, width, channels, 1]: each output sees height x width values.
    is_depthwise = len(shape) == 4 and shape[-1] == 1
    fan_in = math.prod(shape[:2]) if is_depthwise else math.prod(shape[:-1])
    return math.sqrt(1 / fan_in) * random.standard_normal(shape, np.float32)
