"""A small manager for a Compose stack that changes without losing a request."""

__version__ = "0.1.0"
