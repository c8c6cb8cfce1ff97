"""What the ears know of drums and keys: constants that benchmarks/fit_ears.py fitted and wrote.

Fitted on 400 pieces of synthetic music of the train split, as they are, degraded, and through the bundled codec.
Right on the first 60 of the test split:
    codec: drums 0.983, key 0.850, mode 0.917 (60 versions)
    degraded: drums 1.000, key 0.967, mode 0.967 (120 versions)
    true: drums 1.000, key 0.967, mode 0.967 (60 versions)
"""

from __future__ import annotations

# Weights of Sound.drum_features; above 0 in all there are drums.
DRUMS = {
    "kick_high": 3.5297,
    "kick_crest": 2.4529,
    "kick_rise": 0.3255,
    "low_high": 1.3856,
    "low_crest": 3.2557,
    "middle_mean": -1.3399,
    "top_high": 0.5614,
    "top_noise": 1.8433,
}
DRUMS_BIAS = -16.0974

# Profiles of Sound.key_features seen from the tonic: of the whole piece, and of its opening.
KEYS = {
    "major": (
        (1.248, -0.408, 0.082, -0.660, 0.255, 0.385, -1.102, 0.963, -0.566, 0.839, -0.996, -0.041),
        (0.983, -0.073, -0.189, -0.438, 1.128, -0.722, -0.361, 1.196, 0.452, -1.259, -0.586, -0.131),
    ),
    "minor": (
        (0.494, -1.135, 0.577, 0.520, -0.889, 0.028, -0.365, 0.946, 0.349, -0.625, 0.135, -0.035),
        (1.390, -0.226, -0.072, 1.228, -0.274, -0.883, -0.421, 1.363, -0.600, -0.358, -0.450, -0.698),
    ),
}
