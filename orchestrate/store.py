"""The tracking store, for the rest of the program: where it is, that it is there, and its pages."""

from orchestrate.tracking.database import experiment, prepare, uri
from orchestrate.tracking.server import serve

__all__ = ["experiment", "prepare", "serve", "uri"]
