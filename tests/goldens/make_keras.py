"""Make the small Keras files that tests/weights/test_formats.py reads, and what is in them.

Run in an environment with keras, h5py and jax: `KERAS_BACKEND=jax python tests/goldens/make_keras.py`.
"""

from pathlib import Path

import keras
import numpy as np

from tests.goldens import draws

OUT = Path(__file__).parent / "weights"


def build() -> keras.Model:
    """Return a model with every kind of layer that MobileNetV2 has, one of them in a model of its own."""
    inputs = keras.layers.Input((8, 8, 3))
    inner = keras.layers.Conv2D(2, 1, use_bias=False, name="project")(inputs)
    inner = keras.layers.BatchNormalization(name="project_BN")(inner)
    outer = keras.layers.Input((8, 8, 3))
    x = keras.layers.RandomFlip(seed=0)(outer)
    x = keras.Model(inputs, inner, name="backbone")(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.SeparableConv2D(3, 3, name="separable")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(outer, keras.layers.Dense(2, name="predictions")(x))


def main() -> None:
    """Save one model, trained for a step, in every layout, and its variables by layer and name."""
    model = build()
    variables = {}
    for layer in [*model.layers, *model.get_layer("backbone").layers]:
        if isinstance(layer, keras.Model):
            continue
        for variable in layer.variables:
            if variable.path.rpartition("/")[2] != "seed_generator_state":
                variables[f"{layer.name}/{variable.name}"] = variable
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 8, 8, 3)), np.zeros((2, 2)), verbose=0)
    for name, variable in variables.items():
        variable.assign(draws.tensor("keras", name, tuple(variable.shape)))
    model.save(OUT / "keras_model.h5")
    model.save_weights(OUT / "keras_3.weights.h5")
    arrays = {name: np.asarray(variable) for name, variable in variables.items()}
    np.savez_compressed(OUT / "keras.npz", versions=np.array(f"keras {keras.__version__}"), **arrays)


if __name__ == "__main__":
    main()
