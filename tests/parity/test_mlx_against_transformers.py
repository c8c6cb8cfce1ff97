"""MLX against transformers directly, as tests/reference does for torch, and at the same tolerances."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tokenizers
import torch
import transformers

from hemiola.backend import Backend
from hemiola.codec.config import ENCODEC_24KHZ, ENCODEC_32KHZ, ENCODEC_48KHZ, EncodecConfig
from hemiola.codec.encoded import Encoded
from hemiola.codec.model import EncodecModel
from hemiola.musicgen.batch import Job
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_mlx import Decoder
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling
from hemiola.musicgen.t5_mlx import T5Encoder

CPU = Backend("mlx", "cpu", "float32")
# The published wiring with fewer filters and codebooks: MLX on this CPU is slow, and width proves nothing.
THIN = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64}
CONFIGS = {
    "24khz": dataclasses.replace(ENCODEC_24KHZ, **THIN, target_bandwidths=(1.5, 6.0)),
    "32khz": dataclasses.replace(ENCODEC_32KHZ, **THIN, target_bandwidths=(1.2,)),
    "48khz": dataclasses.replace(ENCODEC_48KHZ, **THIN, target_bandwidths=(3.0, 6.0)),
}
WORDS = ["slow", "piano", "with", "rain", "calm", "bright", "drums", "and", "a", "bass", "line"]


def arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, mx.array]:
    return {name: mx.array(tensor.numpy()) for name, tensor in tensors.items()}


def apart(ours: np.ndarray, theirs: torch.Tensor) -> float:
    """The largest difference, in parts of the largest value."""
    assert ours.shape == tuple(theirs.shape)
    return float(np.abs(ours - theirs.numpy()).max() / theirs.abs().max())


@functools.cache
def codecs(name: str) -> tuple[transformers.EncodecModel, EncodecModel]:
    config = CONFIGS[name]
    values = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        theirs = transformers.EncodecModel(transformers.EncodecConfig(**values)).eval()
        # As initialised, signals fade to nothing on their way and codebooks are zeros: any mistake would hide.
        for key, parameter in theirs.named_parameters():
            if key.endswith("original0"):
                parameter *= 2
            elif ".norm." in key:
                parameter += 0.2 * torch.randn_like(parameter)
        spread = theirs.encoder(torch.randn(1, config.channels, 6400)).std()
        for index, layer in enumerate(theirs.quantizer.layers):
            layer.codebook.embed.copy_(torch.randn_like(layer.codebook.embed) * spread * 0.9**index)
        return theirs, EncodecModel.from_tensors(arrays(theirs.state_dict()), config, CPU)


def sound(config: EncodecConfig, samples: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, config.channels, samples, generator=torch.Generator().manual_seed(samples)) * 0.3


@pytest.mark.parametrize("samples", [1, 2, 319, 641, 2345])
@pytest.mark.parametrize("name", CONFIGS)
def test_latents_codes_and_audio_are_theirs(name: str, samples: int) -> None:
    theirs, ours = codecs(name)
    audio = sound(ours.config, samples)
    with torch.no_grad():
        latents = theirs.encoder(audio)
        found = np.array(ours._network.latents(mx.array(audio.numpy())))
        assert apart(found, latents) < 1e-4
        for bandwidth in ours.config.target_bandwidths:
            coded = theirs.encode(audio, bandwidth=bandwidth, return_dict=True)
            encoded = ours.encode(audio.numpy(), bandwidth)
            assert np.mean(encoded.chunks[0] == coded.audio_codes[0].numpy()) >= 0.999
        wanted = theirs.decode(coded.audio_codes, coded.audio_scales).audio_values[..., :samples]
    scales = None if coded.audio_scales[0] is None else tuple(each.numpy() for each in coded.audio_scales)
    assert apart(ours.decode(Encoded((coded.audio_codes[0].int().numpy(),), scales, samples)), wanted) < 1e-4


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
@pytest.mark.parametrize("length", [1, 7, 61])
def test_text_states_are_theirs(feed_forward: str, length: int) -> None:
    torch.manual_seed(length)
    theirs = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=50,
            d_model=24,
            d_kv=5,
            d_ff=40,
            num_layers=3,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=20,
            feed_forward_proj=feed_forward,
        )
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = T5Encoder(T5Config.from_dict(theirs.config.to_dict()))
    tensors = {name: tensor for name, tensor in theirs.state_dict().items() if "embed_tokens" not in name}
    ours.load_weights(list(arrays(tensors).items()))
    tokens, mask = torch.randint(50, (2, length)), torch.ones(2, length, dtype=torch.long)
    mask[1, (length + 1) // 2 :] = 0
    with torch.inference_mode():
        wanted = theirs(input_ids=tokens, attention_mask=mask).last_hidden_state
    found = torch.tensor(np.array(ours(mx.array(tokens.numpy()), mx.array(mask.numpy()))))
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)


def musicgen(channels: int = 1, text_width: int = 20) -> transformers.MusicgenForConditionalGeneration:
    torch.manual_seed(5)
    config = transformers.MusicgenConfig(
        text_encoder=transformers.T5Config(
            vocab_size=60, d_model=text_width, d_kv=4, d_ff=24, num_layers=2, num_heads=4
        ),
        audio_encoder=transformers.EncodecConfig(
            target_bandwidths=[2.0],
            sampling_rate=800,
            num_filters=2,
            hidden_size=8,
            codebook_size=32,
            upsampling_ratios=[4, 2],
            num_lstm_layers=1,
        ),
        decoder=transformers.MusicgenDecoderConfig(
            vocab_size=32,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            ffn_dim=48,
            num_codebooks=4 * channels,
            audio_channels=channels,
            pad_token_id=32,
            bos_token_id=32,
            initializer_factor=0.2,
        ),
    )
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("decoder.", "enc_to_dec")):
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("codebook.embed"):
            torch.nn.init.normal_(buffer)
    return model


@pytest.mark.parametrize(("channels", "text_width"), [(1, 20), (2, 20), (1, 32)])
def test_logits_are_theirs(channels: int, text_width: int) -> None:
    theirs = musicgen(channels, text_width)
    ours = Decoder(DecoderConfig.from_dict(theirs.config.decoder.to_dict()), text_width)
    tensors = dict(theirs.decoder.state_dict())
    if hasattr(theirs, "enc_to_dec_proj"):
        tensors |= {f"enc_to_dec_proj.{name}": each for name, each in theirs.enc_to_dec_proj.state_dict().items()}
    ours.load_weights(list(arrays(tensors).items()))
    codebooks, steps = 4 * channels, 53
    tokens, text = torch.randint(33, (2, codebooks, steps)), torch.randn(2, 7, text_width)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    with torch.inference_mode():
        wanted = theirs(
            encoder_outputs=(text,), attention_mask=mask, decoder_input_ids=tokens.reshape(2 * codebooks, steps)
        ).logits
    found = np.array(ours(*(mx.array(each.numpy()) for each in (tokens, text, mask))))
    torch.testing.assert_close(torch.tensor(found), wanted.view(found.shape), atol=1e-4, rtol=1e-4)


def written_by_transformers(theirs: transformers.MusicgenForConditionalGeneration, folder: Path) -> MusicgenModel:
    theirs.save_pretrained(folder)
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return MusicgenModel.from_pretrained(folder, backend="mlx", device="cpu")


def their_codes(
    theirs: transformers.MusicgenForConditionalGeneration, ids: list[list[int]], steps: int, guidance: float
) -> np.ndarray:
    """Codes [B, K, steps - 3] that they generate greedily; they are caught on their way into the codec."""
    caught: list[torch.Tensor] = []
    decode = theirs.audio_encoder.decode
    longest = max(map(len, ids))
    theirs.audio_encoder.decode = lambda codes, audio_scales: caught.append(codes[0]) or decode(codes, audio_scales)
    theirs.generate(
        input_ids=torch.tensor([each + [0] * (longest - len(each)) for each in ids]),
        attention_mask=torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids]),
        do_sample=False,
        max_new_tokens=steps,
        guidance_scale=guidance,
    )
    return caught[0].numpy() if len(caught) == 1 else torch.stack(caught, dim=2).flatten(1, 2).numpy()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_greedy_tokens_are_theirs(channels: int, guidance: float, tmp_path: Path) -> None:
    theirs = musicgen(channels)
    ours = written_by_transformers(theirs, tmp_path)
    texts = ["slow piano with rain", "bright drums and a bass line"]
    wanted = their_codes(theirs, [ours.tokenizer.encode(text) for text in texts], 100, guidance)
    assert len(np.unique(wanted)) > 8, "a decoder stuck on one token would prove little"
    greedy = Sampling(temperature=0)
    (found,) = ours.tokens([Job(text, 97, sampling=replace(greedy, guidance=guidance)) for text in texts])
    assert np.array_equal(found, wanted)
    codes = found[0]
    rows = [torch.tensor(codes[channel::channels])[None, None].long() for channel in range(channels)]
    with torch.inference_mode():
        audio = torch.cat([theirs.audio_encoder.decode(each, [None]).audio_values for each in rows], dim=1)[0]
    np.testing.assert_allclose(ours.decode(codes, 771), audio.numpy()[:, :771], atol=1e-5)
