"""What goes wrong with the engines beyond their configuration."""

from __future__ import annotations


class EngineError(Exception):
    """An embedded engine did not start; the text ends with what it said itself."""
