"""Explanations: the contract every method keeps, and the explicit dict of methods, by preference."""

from jtl.explain import attention, embeddings, grad_cam
from jtl.explain.contract import Method

__all__ = ["METHODS", "Method"]

METHODS: dict[str, Method] = {
    "grad_cam": grad_cam.METHOD,
    "integrated_gradients": embeddings.INTEGRATED,
    "attention_gradient": attention.GRADIENT_WEIGHTED,
    "attention_rollout": attention.ROLLOUT,
    "gradient_x_input": embeddings.GRADIENT_X_INPUT,
}
