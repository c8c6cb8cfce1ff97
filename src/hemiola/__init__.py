"""Hemiola: text to music on neural codecs, exact to the sample.

The names below are loaded when they are first used: `import hemiola` by itself loads no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hemiola.audio.audio import Audio
    from hemiola.blend.model import Blend
    from hemiola.codec.model import EncodecModel
    from hemiola.errors import HemiolaError
    from hemiola.generation import MusicGen, generate
    from hemiola.request import Request
    from hemiola.timebase import Timebase

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "Blend",
    "EncodecModel",
    "HemiolaError",
    "MusicGen",
    "Request",
    "Timebase",
    "__version__",
    "generate",
]

# No module may be named like one of these: importing it would put the module in the name's place.
_HOMES = {
    "Audio": "hemiola.audio.audio",
    "Blend": "hemiola.blend.model",
    "EncodecModel": "hemiola.codec.model",
    "HemiolaError": "hemiola.errors",
    "MusicGen": "hemiola.generation",
    "Request": "hemiola.request",
    "Timebase": "hemiola.timebase",
    "generate": "hemiola.generation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hemiola' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
