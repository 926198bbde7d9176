"""Models and pictures that tests of Python share with those of the verbs."""

from tests.verbs.conftest import photos, weights

__all__ = ["photos", "weights"]
