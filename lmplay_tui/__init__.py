"""A terminal dashboard that trains small language models, and the trainer under it."""

__version__ = "0.1.0"
