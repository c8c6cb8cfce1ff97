"""What the ears know of drums and keys: constants that benchmarks/fit_ears.py fitted and wrote.

Fitted on 400 pieces of synthetic music of the train split, as they are, degraded.
"""

from __future__ import annotations

# Weights of Sound.drum_features; above 0 in all there are drums.
DRUMS = {
    "kick_high": 2.4128,
    "kick_crest": 2.0170,
    "kick_rise": 0.9851,
    "low_high": 1.9601,
    "low_crest": 2.5466,
    "middle_mean": -1.1488,
    "top_high": 0.6701,
    "top_noise": 1.6904,
}
DRUMS_BIAS = -12.5571

# Profiles of Sound.key_features seen from the tonic: of the whole piece, and of its opening.
KEYS = {
    "major": (
        (1.073, -0.217, -0.052, -0.767, 0.341, 0.256, -0.810, 0.965, -0.469, 0.589, -0.854, -0.057),
        (0.976, -0.110, 0.066, -0.613, 0.936, -0.541, -0.330, 1.188, 0.231, -1.198, -0.459, -0.145),
    ),
    "minor": (
        (0.569, -0.887, 0.485, 0.567, -0.900, -0.084, -0.349, 0.975, 0.143, -0.434, 0.062, -0.145),
        (1.203, -0.224, 0.120, 1.051, -0.200, -0.694, -0.348, 1.244, -0.581, -0.505, -0.486, -0.580),
    ),
}
