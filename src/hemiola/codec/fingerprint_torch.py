"""A codec's fingerprint: by it latents, tokens and models know whose they are."""

from __future__ import annotations

import hashlib
import json

from hemiola.codec.encodec_torch import Encodec


def fingerprint(codec: Encodec) -> str:
    """A short name for the exact weights that make latents and codes, so that another codec's are never taken for them.

    The decoder has no say in it: it may be trained further, and these stay what they are.
    """
    digest = hashlib.sha256(json.dumps(codec.config.to_dict(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        if name.startswith("decoder."):
            continue
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
