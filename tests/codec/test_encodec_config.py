from __future__ import annotations

from fractions import Fraction

import pytest

from hemiola.codec.config import ENCODEC_24KHZ, ENCODEC_32KHZ, ENCODEC_48KHZ, EncodecConfig
from hemiola.errors import InputError, WeightsError
from hemiola.timebase import Timebase

PRESETS = (ENCODEC_24KHZ, ENCODEC_32KHZ, ENCODEC_48KHZ)


def test_the_published_codecs_run_at_the_published_rates():
    assert [preset.timebase for preset in PRESETS] == [Timebase(24000, 320), Timebase(32000, 640), Timebase(48000, 320)]
    assert [preset.frame_rate for preset in PRESETS] == [75, 50, 150]
    assert [preset.codebooks for preset in PRESETS] == [32, 4, 16]
    assert [preset.channels for preset in PRESETS] == [1, 1, 2]


def test_only_48_khz_has_chunks():
    assert [(preset.chunk_length, preset.chunk_stride) for preset in PRESETS] == [
        (None, None),
        (None, None),
        (48000, 47520),
    ]


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (ENCODEC_24KHZ, {1.5: 2, 3.0: 4, 6.0: 8, 12.0: 16, 24.0: 32, None: 32}),
        (ENCODEC_32KHZ, {2.2: 4, None: 4}),
        (ENCODEC_48KHZ, {3: 2, 6: 4, 12: 8, 24: 16, None: 16}),
    ],
)
def test_a_bandwidth_pays_for_so_many_codebooks(config, counts):
    assert {bandwidth: config.codebooks_for(bandwidth) for bandwidth in counts} == counts


def test_an_unknown_bandwidth_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"no bandwidth of 5 kbps: choose one of 1.5, 3, 6, 12, 24$"):
        ENCODEC_24KHZ.codebooks_for(5)


def test_a_rate_that_is_no_whole_number_stays_exact():
    config = EncodecConfig(sampling_rate=22050, target_bandwidths=(3.0,))
    assert config.frame_rate == Fraction(2205, 32)
    assert config.codebooks == 4  # 3000 // (69 * 10), a frame rate of 69 as transformers rounds it


def test_lists_and_strangers_in_a_config_file_are_fine():
    config = EncodecConfig.from_dict(
        {"model_type": "encodec", "upsampling_ratios": [4, 2], "torch_dtype": "float32", "codebook_dim": 128}
    )
    assert config.timebase == Timebase(24000, 8)
    assert hash(config) == hash(EncodecConfig(upsampling_ratios=(4, 2), codebook_dim=128))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_survives_its_own_file(preset):
    again = EncodecConfig.from_dict(preset.to_dict())
    assert again.to_dict() == preset.to_dict()
    assert again.codebook_dim == 128


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"model_type": "dac"}, "'dac' model"),
        ({"norm_type": "layer_norm"}, "norm_type = 'layer_norm' is not supported: it must be weight_norm or"),
        ({"pad_mode": "circular"}, "pad_mode"),
        ({"audio_channels": 3}, "audio_channels = 3"),
        ({"codebook_size": 1000}, "power of 2"),
        ({"codebook_dim": 64}, r"codebook_dim = 64 is not supported: it must be hidden_size \(128\)"),
        ({"trim_right_ratio": 0.5, "use_causal_conv": False}, "trim_right_ratio"),
        ({"compress": 64}, "compress"),
        ({"chunk_length_s": 0}, "chunk_length_s"),
        ({"overlap": 1.0}, "overlap"),
        ({"num_filters": "32"}, "num_filters must be a positive whole number, not '32'"),
        ({"num_lstm_layers": 0}, "num_lstm_layers"),
        ({"normalize": 1}, "normalize must be true or false"),
        ({"chunk_length_s": "1"}, "chunk_length_s must be a number"),
        ({"trim_right_ratio": None}, "trim_right_ratio must be a number"),
        ({"upsampling_ratios": []}, "upsampling_ratios"),
        ({"upsampling_ratios": [8, 0]}, "upsampling_ratios"),
        ({"target_bandwidths": [6.0, 3.0]}, "target_bandwidths must rise"),
        ({"target_bandwidths": ["3"]}, "target_bandwidths"),
    ],
)
def test_what_is_not_supported_is_named(values, complaint):
    with pytest.raises(WeightsError, match=complaint) as raised:
        EncodecConfig.from_dict(values)
    assert "\n" not in str(raised.value)
