"""Hemiola: text to music on neural codecs, exact to the sample."""

from __future__ import annotations

__version__ = "0.1.0"
