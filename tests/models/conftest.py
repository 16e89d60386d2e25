"""One thread computes, as in the trainer's tests: with two the sums are others."""

from tests.train.conftest import _one_thread  # noqa: F401  (a fixture)
