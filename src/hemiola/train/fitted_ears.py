"""What the ears know of drums and keys: constants that benchmarks/fit_ears.py fitted and wrote.

Fitted on 600 pieces of synthetic music of the train split, as they are, degraded, and through the bundled codec.
Right on the first 100 of the test split:
    codec: drums 1.000, key 0.980, mode 0.990 (100 versions)
    degraded: drums 0.985, key 1.000, mode 1.000 (200 versions)
    true: drums 0.990, key 1.000, mode 1.000 (100 versions)
"""

from __future__ import annotations

# Weights of Sound.drum_features; above 0 in all there are drums.
DRUMS = {
    "kick_high": 7.1507,
    "kick_crest": -0.4517,
    "kick_rise": 0.7013,
    "low_high": 4.0665,
    "low_crest": 0.0792,
    "middle_mean": -0.4051,
    "top_high": 0.8607,
    "top_noise": 2.1020,
}
DRUMS_BIAS = -16.6849

# Profiles of Sound.key_features seen from the tonic.
KEYS = {
    "major": (
        (1.096, -0.233, 0.490, -0.995, 0.245, 0.380, -0.892, 1.121, -0.741, 0.080, -0.995, 0.445),
        (0.790, -0.105, -0.436, -0.481, 0.915, -0.303, -0.224, 0.968, 0.209, -0.851, -0.514, 0.031),
        (-0.253, 0.037, 0.201, -0.434, -0.048, 0.277, 0.035, 0.122, -0.253, 0.620, -0.396, 0.093),
        (1.048, 0.165, -0.106, -0.274, 0.205, -0.430, 0.099, 0.155, -0.032, -0.604, -0.164, -0.062),
    ),
    "minor": (
        (0.935, -1.065, 0.670, 0.574, -1.263, 0.042, -0.071, 0.870, 0.466, -0.887, -0.327, 0.055),
        (0.871, -0.251, -0.021, 1.069, -0.559, -0.519, -0.097, 1.041, -0.395, -0.398, -0.208, -0.532),
        (0.050, -0.349, 0.140, -0.293, -0.071, 0.311, -0.428, 0.189, 0.421, -0.071, 0.139, -0.038),
        (0.963, 0.083, 0.083, 0.161, 0.011, -0.151, -0.465, 0.527, -0.484, -0.057, -0.295, -0.376),
    ),
}
