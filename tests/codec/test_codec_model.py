"""The facade: numpy in, numpy out, and one clear line for what cannot be done."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hemiola.backend import Backend
from hemiola.codec import encodec_torch
from hemiola.codec.config import EncodecConfig
from hemiola.codec.encoded import Encoded
from hemiola.codec.model import EncodecModel
from hemiola.errors import AudioError, HemiolaError, InputError, WeightsError
from hemiola.timebase import Timebase

WHOLE = EncodecConfig(
    sampling_rate=1200,
    upsampling_ratios=(4, 2),
    num_filters=4,
    hidden_size=6,
    codebook_size=16,
    target_bandwidths=(0.6, 1.8),
)
CHUNKED = dataclasses.replace(
    WHOLE,
    audio_channels=2,
    normalize=True,
    chunk_length_s=0.04,  # 48 samples, stride 43: like 48000 and 47520, where a stride is no whole number of frames
    overlap=0.09,
    norm_type="time_group_norm",
    use_causal_conv=False,
)


def model_of(config: EncodecConfig) -> EncodecModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = encodec_torch.Encodec(config).eval()
    return EncodecModel(config, network)


MODELS = {"whole": model_of(WHOLE), "chunked": model_of(CHUNKED)}


@pytest.fixture(params=list(MODELS))
def model(request):
    return MODELS[request.param]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=60, deadline=None)
@given(samples=st.integers(1, 300), batch=st.integers(1, 3))
def test_any_length_comes_back_as_long_as_it_went_in(name, samples, batch):
    model = MODELS[name]
    audio = noise(batch, model.channels, samples)
    encoded = model.encode(audio)
    decoded = model.decode(encoded)
    assert decoded.shape == audio.shape
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()
    assert {codes.dtype for codes in encoded.chunks} == {np.dtype(np.int32)}
    frames = [codes.shape[-1] for codes in encoded.chunks]
    if name == "whole":
        assert frames == [model.timebase.frames(samples)]
    else:
        assert len(frames) == -(-samples // 43)
        assert all(count == 6 for count in frames[:-2])


def test_chunks_side_by_side_are_chunks_one_by_one():
    model, audio = MODELS["chunked"], noise(2, 2, 700)
    encoded = model.encode(audio)
    assert model.chunk_length == 48
    assert model.chunk_stride == 43
    for index, (codes, scale) in enumerate(zip(encoded.chunks, encoded.scales)):
        alone = model.encode(audio[..., 43 * index : 43 * index + 48])
        np.testing.assert_array_equal(alone.chunks[0], codes)
        np.testing.assert_array_equal(alone.scales[0], scale)


def test_the_scale_is_the_loudness_of_the_mono_mix():
    audio = noise(1, 2, 40) * np.float32([[0.5], [0.1]])
    (scale,) = MODELS["chunked"].encode(audio).scales
    assert scale.shape == (1, 1)
    expected = sum(((left + right) / 2) ** 2 for left, right in zip(*audio[0].astype(float))) / 40
    assert scale[0, 0] == pytest.approx(expected**0.5, rel=1e-6)


def test_louder_audio_has_the_same_codes_and_louder_decoding():
    model, audio = MODELS["chunked"], noise(2, 2, 100)
    soft, loud = model.encode(audio), model.encode(4 * audio)
    for soft_codes, loud_codes in zip(soft.chunks, loud.chunks):
        np.testing.assert_array_equal(soft_codes, loud_codes)
    np.testing.assert_allclose(model.decode(loud), 4 * model.decode(soft), rtol=1e-4, atol=1e-5)


def test_silence_stays_finite(model):
    audio = np.zeros((1, model.channels, 100), np.float32)
    assert np.isfinite(model.decode(model.encode(audio))).all()
    assert np.isfinite(model.latents(audio[..., :48])).all()


def test_without_a_batch_axis_there_is_none_in_the_answer(model):
    audio = noise(1, model.channels, 45)
    encoded = model.encode(audio[0])
    np.testing.assert_array_equal(encoded.chunks[0], model.encode(audio).chunks[0])
    np.testing.assert_array_equal(model.decode(encoded), model.decode(model.encode(audio))[0])
    np.testing.assert_array_equal(model.latents(audio[0]), model.latents(audio)[0])


def test_the_codes_are_those_of_the_latents():
    model, audio = MODELS["whole"], noise(2, 1, 77)
    nearest = model._network.quantize(torch.tensor(model.latents(audio)), 3)
    np.testing.assert_array_equal(model.encode(audio).chunks[0], nearest.numpy())


def test_a_lower_bandwidth_is_the_first_of_the_codebooks(model):
    audio = noise(2, model.channels, 90)
    most, least = model.encode(audio), model.encode(audio, 0.6)
    assert (most.chunks[0].shape[1], least.chunks[0].shape[1]) == (3, 1)
    for all_codes, first_codes in zip(most.chunks, least.chunks):
        np.testing.assert_array_equal(all_codes[:, :1], first_codes)
    assert model.decode(least).shape == audio.shape


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_fine_and_the_input_is_left_alone(model, dtype):
    audio = noise(1, model.channels, 60).astype(dtype)
    audio.flags.writeable = False
    encoded = model.encode(audio)
    np.testing.assert_array_equal(encoded.chunks[0], model.encode(audio.astype(np.float32)).chunks[0])


@pytest.mark.parametrize(
    ("audio", "complaint"),
    [
        (np.zeros((1, 0), np.float32), "empty"),
        (np.zeros((0, 1, 5), np.float32), "empty"),
        (np.zeros((2, 9), np.float32), r"audio of 1 channel\(s\), not of 2"),
        (np.zeros(9, np.float32), r"must be \[channels, samples\] or \[batch, channels, samples\], not \[9\]"),
        (np.full((1, 9), np.nan, np.float32), "not finite"),
        (np.full((1, 9), np.inf, np.float32), "not finite"),
        (np.zeros((1, 9), np.int16), "array of floats, not int16"),
        ([[0.0, 1.0]], "array of floats, not list"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "latents"])
def test_audio_that_cannot_be_coded_is_one_clear_line(audio, complaint, method):
    with pytest.raises(AudioError, match=complaint) as raised:
        getattr(MODELS["whole"], method)(audio)
    assert "\n" not in str(raised.value)


def test_an_unknown_bandwidth_lists_the_known():
    with pytest.raises(InputError, match=r"no bandwidth of 6.0 kbps: choose one of 0.6, 1.8"):
        MODELS["whole"].encode(noise(1, 9), 6.0)


def test_latents_of_more_than_a_chunk_are_refused():
    with pytest.raises(AudioError, match="chunks of 48 samples"):
        MODELS["chunked"].latents(noise(2, 49))


def codes(*shape: int, value: int = 0) -> np.ndarray:
    return np.full(shape, value, np.int32)


@pytest.mark.parametrize(
    ("name", "encoded", "complaint"),
    [
        ("whole", Encoded((), None, 8), "decodes one chunk, not 0"),
        ("whole", Encoded((codes(1, 3, 2), codes(1, 3, 2)), None, 8), "decodes one chunk, not 2"),
        ("whole", Encoded((codes(3, 2),), None, 8), r"\[batch, codebooks, frames\], alike in all chunks, not \[3, 2\]"),
        ("whole", Encoded((codes(1, 3, 0),), None, 8), r"not \[1, 3, 0\]"),
        ("whole", Encoded((codes(1, 4, 2),), None, 8), "has 3 codebooks, the codes use 4"),
        ("whole", Encoded((codes(1, 3, 2, value=16),), None, 8), "from 0 to 15"),
        ("whole", Encoded((codes(1, 3, 2, value=-1),), None, 8), "from 0 to 15"),
        ("whole", Encoded((codes(1, 3, 2).astype(np.float32),), None, 8), "whole numbers"),
        ("whole", Encoded((codes(1, 3, 2),), None, 17), "16 samples are coded, 17 cannot be decoded"),
        ("whole", Encoded((codes(1, 3, 2),), None, 0), "0 cannot be decoded"),
        ("whole", Encoded((codes(1, 3, 2),), (noise(1, 1),), 8), "wants no scales"),
        ("chunked", Encoded((codes(1, 3, 2),), None, 8), "wants 1 scales"),
        ("chunked", Encoded((codes(1, 3, 2),), (noise(1, 1),) * 2, 8), "wants 1 scales"),
        ("chunked", Encoded((codes(1, 3, 5), codes(1, 3, 5)), (noise(1, 1),) * 2, 8), "shorter than the stride of 43"),
        ("chunked", Encoded((codes(1, 3, 6), codes(2, 3, 6)), (noise(1, 1),) * 2, 8), "alike in all chunks"),
    ],
)
def test_codes_that_cannot_be_decoded_are_one_clear_line(name, encoded, complaint):
    with pytest.raises(InputError, match=complaint) as raised:
        MODELS[name].decode(encoded)
    assert "\n" not in str(raised.value)


def test_a_folder_is_a_model(tmp_path):
    encodec_torch.save(MODELS["whole"]._network, tmp_path)
    model = EncodecModel.from_pretrained(tmp_path, backend="torch", device="cpu")
    assert model.timebase == Timebase(1200, 8)
    assert (model.channels, model.sampling_rate, model.chunk_length, model.chunk_stride) == (1, 1200, None, None)
    audio = noise(2, 1, 70)
    np.testing.assert_array_equal(model.encode(audio).chunks[0], MODELS["whole"].encode(audio).chunks[0])


def test_the_codec_inside_a_musicgen_is_found(tmp_path):
    from safetensors.torch import save_file

    tensors = encodec_torch.to_checkpoint(MODELS["whole"]._network)
    tensors = {f"audio_encoder.{name}": tensor for name, tensor in tensors.items()}
    save_file({**tensors, "decoder.lm_heads.0.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    config = {"model_type": "musicgen", "audio_encoder": WHOLE.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = EncodecModel.from_pretrained(str(tmp_path), backend="torch", device="cpu")
    audio = noise(1, 33)
    np.testing.assert_array_equal(model.encode(audio).chunks[0], MODELS["whole"].encode(audio).chunks[0])


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_is_none_is_said_so(tmp_path, content):
    encodec_torch.save(MODELS["whole"]._network, tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="config"):
        EncodecModel.from_pretrained(tmp_path, backend="torch", device="cpu")


def test_weights_that_do_not_fit_are_said_to_be_of_that_checkpoint(tmp_path):
    encodec_torch.save(MODELS["whole"]._network, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_lstm_layers": 1}))
    with pytest.raises(HemiolaError, match=r"(?s)surplus.*lstm\.weight_ih_l1") as raised:
        EncodecModel.from_pretrained(tmp_path, backend="torch", device="cpu")
    assert str(tmp_path) in str(raised.value).splitlines()[0]


def test_another_dtype_codes_nearly_alike():
    tensors = MODELS["whole"]._network.state_dict()
    model = EncodecModel.from_tensors(tensors, WHOLE, Backend("torch", "cpu", "bfloat16"))
    audio = noise(2, 1, 80)
    found, expected = model.latents(audio), MODELS["whole"].latents(audio)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
