"""What the ears know of drums and keys: constants that benchmarks/fit_ears.py fitted and wrote.

Fitted on 150 pieces of synthetic music of the train split, as they are, degraded, and through the bundled codec.
Right on the first 60 of the test split:
    codec: drums 1.000, key 0.850, mode 0.883 (60 versions)
    degraded: drums 0.983, key 0.992, mode 0.992 (120 versions)
    true: drums 0.983, key 0.983, mode 0.983 (60 versions)
"""

from __future__ import annotations

# Weights of Sound.drum_features; above 0 in all there are drums.
DRUMS = {
    "kick_high": 4.1529,
    "kick_crest": -0.5053,
    "kick_rise": 0.7981,
    "low_high": 3.9073,
    "low_crest": 0.2615,
    "middle_mean": -1.3581,
    "top_high": 0.8243,
    "top_noise": 2.4385,
}
DRUMS_BIAS = -10.1035

# Profiles of Sound.key_features seen from the tonic: of the whole piece, and of its opening.
KEYS = {
    "major": (
        (0.884, -0.289, 0.331, -0.608, 0.216, 0.176, -0.704, 0.858, -0.406, 0.418, -0.901, 0.026),
        (0.890, -0.141, -0.202, -0.302, 0.880, -0.523, -0.267, 0.905, 0.235, -0.926, -0.492, -0.057),
    ),
    "minor": (
        (0.585, -0.915, 0.631, 0.556, -0.784, -0.019, -0.377, 0.788, 0.336, -0.349, -0.325, -0.128),
        (0.982, -0.314, 0.067, 0.931, -0.236, -0.587, -0.375, 1.074, -0.335, -0.424, -0.134, -0.649),
    ),
}
