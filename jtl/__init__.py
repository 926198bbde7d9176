"""jtl: transfer learning in JAX, from pretrained weights to a model that is good at your own task."""

__version__ = "0.1.0"
