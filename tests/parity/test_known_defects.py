"""What ports to MLX are known to get wrong (those in mlx-examples among them), and this one does not."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch

from hemiola.codec import encodec_mlx, plan, seanet_mlx
from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec, to_checkpoint
from hemiola.codec.model import EncodecModel
from hemiola.musicgen.batch import Job
from hemiola.musicgen.decoder_mlx import Decoder
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling, draws, gumbels
from hemiola.musicgen.sampling_mlx import Picker
from hemiola.weights import keys, layout


@pytest.fixture(scope="module")
def music(tiny: Path) -> MusicgenModel:
    return MusicgenModel.from_pretrained(tiny, backend="mlx", device="cpu")


@pytest.fixture(scope="module")
def decoder(tiny: Path, music: MusicgenModel) -> Decoder:
    tensors = keys.read(tiny, "mlx")
    decoder = Decoder(music.config.decoder, music.config.text.d_model)
    projection = {name: tensor for name, tensor in tensors.items() if name.startswith("enc_to_dec_proj")}
    decoder.load_weights([*(keys.under(tensors, "decoder.") | projection).items()])
    return decoder


@pytest.mark.parametrize("frames", [1, 2, 3, 12])
def test_the_last_frame_is_aligned(music: MusicgenModel, decoder: Decoder, frames: int) -> None:
    # Written step by step without a text and greedily, each code is the likeliest of the whole sequence seen at once,
    # in all codebooks of every frame, also the last: none is missing, and none is of another time.
    (codes,) = music.tokens([Job(None, frames, sampling=Sampling(temperature=0))])
    assert codes.shape == (1, 4, frames)
    pattern = music.config.decoder.pattern.build(codes)
    text, nothing = mx.zeros((1, 1, music.config.text.d_model)), mx.zeros((1, 1))
    likeliest = np.array(decoder(mx.array(pattern[..., :-1]), text, nothing).argmax(-1))
    undone = music.config.decoder.pattern.undo(np.concatenate([pattern[..., :1], likeliest], axis=-1))
    assert np.array_equal(undone, codes)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_top_k_keeps_k(top_k: int) -> None:
    logits = np.random.default_rng(0).permutation(20).astype(np.float32) / 4
    noise = gumbels(draws(1, 0, range(4000), 1, 20)).swapaxes(0, 1)
    rows = mx.broadcast_to(mx.array(logits), noise.shape)
    picked = np.array(Picker([Sampling(top_k=top_k)], 20)(rows, mx.array(noise)))
    assert set(picked.ravel().tolist()) == set(np.argsort(-logits)[:top_k].tolist())


@pytest.mark.parametrize("layers", [1, 2])
def test_a_batch_of_three_goes_through_the_lstm(layers: int) -> None:
    torch.manual_seed(layers)
    reference = torch.nn.LSTM(10, 10, layers, batch_first=True)
    lstm = seanet_mlx.Lstm(plan.Lstm(10, layers))
    tensors = {f"l.lstm.{name}": mx.array(tensor.numpy()) for name, tensor in reference.state_dict().items()}
    moved = layout.to_mlx(tensors, ())
    lstm.load_weights([(name.removeprefix("l."), tensor) for name, tensor in moved.items()])
    x = torch.randn(3, 23, 10)
    with torch.no_grad():
        wanted = (reference(x)[0] + x).numpy()
    found = np.array(lstm(mx.array(x.numpy())))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    for row, item in zip(found, x):
        np.testing.assert_allclose(np.array(lstm(mx.array(item[None].numpy())))[0], row, atol=1e-6)


CODEC = EncodecConfig(
    sampling_rate=32000,
    upsampling_ratios=(8, 5, 4, 4),
    target_bandwidths=(1.2,),
    num_filters=2,
    hidden_size=8,
    codebook_size=64,
    use_causal_conv=False,
)


@pytest.fixture(scope="module")
def codec() -> EncodecModel:
    torch.manual_seed(3)
    network = Encodec(CODEC).eval()
    for each in network.quantizer.codebooks:
        each.embed.copy_(torch.randn_like(each.embed) * 0.3)
    tensors = {name: mx.array(tensor.numpy()) for name, tensor in to_checkpoint(network).items()}
    return EncodecModel(CODEC, encodec_mlx.load(tensors, CODEC, encodec_mlx.Backend("mlx", "cpu", "float32")))


@pytest.mark.parametrize("samples", [640, 3333])
def test_a_batch_is_encoded_and_decoded_as_its_items(codec: EncodecModel, samples: int) -> None:
    audio = np.random.default_rng(samples).normal(size=(3, 1, samples)).astype(np.float32)
    together = codec.encode(audio)
    decoded = codec.decode(together)
    assert decoded.shape == audio.shape
    for index, item in enumerate(audio):
        alone = codec.encode(item)
        assert np.array_equal(alone.chunks[0][0], together.chunks[0][index])
        np.testing.assert_allclose(codec.decode(alone), decoded[index], atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_clip_of_few_frames_keeps_its_length(codec: EncodecModel, frames: int) -> None:
    # Shorter than its own padding: a reflection that is not given zeros first makes it another length.
    samples = CODEC.timebase.samples_of(frames)
    for length in (samples - 639, samples - 1, samples):
        encoded = codec.encode(np.random.default_rng(0).normal(size=(1, length)).astype(np.float32))
        assert encoded.chunks[0].shape == (1, codec.config.codebooks, frames)
        assert codec.decode(encoded).shape == (1, length)
