"""The decoder, and whole generations, against transformers' MusicGen on tiny random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from hemiola.backend import Backend
from hemiola.codec.encodec_torch import load as load_codec
from hemiola.musicgen import checkpoint_torch
from hemiola.musicgen.batch import Job
from hemiola.musicgen.config import DecoderConfig, MusicgenConfig
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling
from hemiola.musicgen.t5_torch import T5Encoder

TEXT_WIDTH = 20


TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 48}
SMALL = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "ffn_dim": 4096}


def reference_model(
    channels: int = 1, text_width: int = TEXT_WIDTH, vocab_size: int = 32, std: float = 0.2, size: dict[str, int] = TINY
) -> transformers.MusicgenForConditionalGeneration:
    torch.manual_seed(5)
    config = transformers.MusicgenConfig(
        text_encoder=transformers.T5Config(
            vocab_size=60, d_model=text_width, d_kv=4, d_ff=24, num_layers=2, num_heads=4
        ),
        audio_encoder=transformers.EncodecConfig(
            target_bandwidths=[5.0],
            sampling_rate=800,
            num_filters=2,
            hidden_size=8,
            codebook_size=vocab_size,
            upsampling_ratios=[4, 2],
            num_lstm_layers=1,
        ),
        decoder=transformers.MusicgenDecoderConfig(
            vocab_size=vocab_size,
            num_codebooks=4 * channels,
            audio_channels=channels,
            pad_token_id=vocab_size,
            bos_token_id=vocab_size,
            **size,
        ),
    )
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("decoder.", "enc_to_dec")):
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=std)
    for name, buffer in model.named_buffers():
        if name.endswith("codebook.embed"):
            torch.nn.init.normal_(buffer)
    return model


def our_decoder(reference: transformers.MusicgenForConditionalGeneration) -> Decoder:
    width = reference.config.text_encoder.d_model
    ours = Decoder(DecoderConfig.from_dict(reference.config.decoder.to_dict()), width).eval()
    tensors = dict(reference.decoder.state_dict())
    if hasattr(reference, "enc_to_dec_proj"):
        tensors |= {
            f"enc_to_dec_proj.{name}": tensor for name, tensor in reference.enc_to_dec_proj.state_dict().items()
        }
    ours.load_state_dict(tensors, strict=True)
    return ours


@pytest.mark.parametrize(("channels", "text_width"), [(1, TEXT_WIDTH), (2, TEXT_WIDTH), (1, 32)])
def test_logits_of_a_whole_sequence_equal_transformers(channels: int, text_width: int) -> None:
    reference = reference_model(channels, text_width)
    ours = our_decoder(reference)
    codebooks, steps = 4 * channels, 53
    tokens = torch.randint(33, (2, codebooks, steps))
    text = torch.randn(2, 7, text_width)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    with torch.inference_mode():
        wanted = reference(
            encoder_outputs=(text,), attention_mask=mask, decoder_input_ids=tokens.reshape(2 * codebooks, steps)
        ).logits
        found = ours(tokens, text, mask)
    torch.testing.assert_close(found, wanted.view_as(found), atol=1e-4, rtol=1e-4)


def test_a_row_without_text_equals_transformers_null_condition_and_has_gradients() -> None:
    reference = reference_model()
    ours = our_decoder(reference)
    tokens = torch.randint(33, (2, 4, 9))
    text = torch.randn(2, 3, TEXT_WIDTH)
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    wanted = reference(encoder_outputs=(text,), attention_mask=mask, decoder_input_ids=tokens.reshape(8, 9)).logits
    found = ours(tokens, text, mask)
    torch.testing.assert_close(found, wanted.view_as(found), atol=1e-4, rtol=1e-4)
    found.square().mean().backward()
    wanted.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in reference.decoder.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-3, msg=name)


WORDS = ["slow", "piano", "with", "rain", "calm", "bright", "drums", "and", "a", "bass", "line", "in", "minor"]
GREEDY = Sampling(temperature=0)


def write_tokenizer(folder: Path) -> Path:
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def written_by_transformers(reference: transformers.MusicgenForConditionalGeneration, folder: Path) -> MusicgenModel:
    reference.save_pretrained(folder)
    write_tokenizer(folder)
    return MusicgenModel.from_pretrained(folder, backend="torch", device="cpu")


def reference_codes(
    reference: transformers.MusicgenForConditionalGeneration, ids: list[list[int]], steps: int, **settings: object
) -> np.ndarray:
    """Codes [B, K, steps - 3] that transformers generates greedily; they are caught on their way into its codec."""
    caught = []
    decode = reference.audio_encoder.decode
    longest = max(map(len, ids))
    reference.audio_encoder.decode = lambda codes, audio_scales: caught.append(codes[0]) or decode(codes, audio_scales)
    try:
        reference.generate(
            input_ids=torch.tensor([each + [0] * (longest - len(each)) for each in ids]),
            attention_mask=torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids]),
            do_sample=False,
            max_new_tokens=steps,
            **settings,
        )
    finally:
        reference.audio_encoder.decode = decode
    if len(caught) == 1:
        return caught[0].numpy()
    return torch.stack(caught, dim=2).flatten(1, 2).numpy()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_greedy_tokens_equal_transformers_for_200_steps(channels: int, guidance: float, tmp_path: Path) -> None:
    reference = reference_model(channels)
    ours = written_by_transformers(reference, tmp_path)
    texts = ["slow piano with rain", "bright drums and a bass line"]
    wanted = reference_codes(reference, [ours.tokenizer.encode(text) for text in texts], 200, guidance_scale=guidance)
    assert len(np.unique(wanted)) > 8, "a decoder stuck on one token would prove little"
    for row, text in zip(wanted, texts):
        (found,) = ours.tokens([Job(text, 197, sampling=replace(GREEDY, guidance=guidance))])
        assert np.array_equal(found[0], row)
    (together,) = ours.tokens([Job(text, 197, sampling=replace(GREEDY, guidance=guidance)) for text in texts])
    assert np.array_equal(together, wanted)


@pytest.mark.parametrize("channels", [1, 2])
def test_audio_of_codes_equals_transformers(channels: int, tmp_path: Path) -> None:
    reference = reference_model(channels)
    ours = written_by_transformers(reference, tmp_path)
    codes = np.random.default_rng(0).integers(32, size=(4 * channels, 11), dtype=np.int32)
    rows = [torch.tensor(codes[channel::channels])[None, None].long() for channel in range(channels)]
    with torch.inference_mode():
        wanted = torch.cat([reference.audio_encoder.decode(each, [None]).audio_values for each in rows], dim=1)[0]
    np.testing.assert_allclose(ours.decode(codes, 85), wanted.numpy()[:, :85], atol=1e-5)


def test_a_prompt_goes_on_as_in_transformers(tmp_path: Path) -> None:
    reference = reference_model()
    ours = written_by_transformers(reference, tmp_path)
    prompt = np.random.default_rng(1).integers(32, size=(4, 9))
    ids = ours.tokenizer.encode("calm piano")
    wanted = reference_codes(reference, [ids], 30 + 3 - 9, guidance_scale=3.0, decoder_input_ids=torch.tensor(prompt))
    (found,) = ours.tokens([Job("calm piano", 30, sampling=GREEDY, prompt=prompt)])
    assert np.array_equal(found[0, :, :9], prompt)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_transformers_loads_what_we_save(dtype: str, tmp_path: Path) -> None:
    reference = reference_model()
    config = MusicgenConfig.from_dict(reference.config.to_dict())
    text_encoder = T5Encoder(config.text)
    text = {name: each for name, each in reference.text_encoder.state_dict().items() if "embed_tokens" not in name}
    text_encoder.load_state_dict(text)
    codec = load_codec(reference.audio_encoder.state_dict(), config.codec, Backend("torch", "cpu", "float32"))
    folder = tmp_path / "saved"
    checkpoint_torch.save(folder, text_encoder, our_decoder(reference), codec, write_tokenizer(tmp_path), dtype)
    loaded, report = transformers.MusicgenForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    assert MusicgenConfig.from_dict(loaded.config.to_dict()) == config
    tokens = transformers.AutoTokenizer.from_pretrained(folder)("calm piano")["input_ids"]
    assert tokens == MusicgenModel.from_pretrained(folder, backend="torch", device="cpu").tokenizer.encode("calm piano")
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert processor.feature_extractor.sampling_rate == config.codec.sampling_rate
    tolerance = 1e-6 if dtype == "float32" else 1e-3
    # What the quantizer's training would count is not kept: nothing reads it.
    counted = ("inited", "cluster_size", "embed_avg")
    for name, tensor in reference.state_dict().items():
        if not name.endswith(counted):
            torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=tolerance, rtol=tolerance, msg=name)
    audio = loaded.generate(input_ids=torch.tensor([tokens]), do_sample=False, max_new_tokens=8)
    assert audio.shape == (1, 1, 5 * 8)


@pytest.mark.slow
def test_a_decoder_as_large_as_musicgen_small_equals_transformers(tmp_path: Path) -> None:
    reference = reference_model(vocab_size=2048, std=0.04, size=SMALL)
    ours = written_by_transformers(reference, tmp_path)
    tokens = torch.randint(2049, (2, 4, 9))
    text = torch.randn(2, 5, TEXT_WIDTH)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    with torch.inference_mode():
        wanted = reference(encoder_outputs=(text,), attention_mask=mask, decoder_input_ids=tokens.reshape(8, 9)).logits
        found = our_decoder(reference)(tokens, text, mask)
    torch.testing.assert_close(found, wanted.view_as(found), atol=1e-4, rtol=1e-4)
    ids = ours.tokenizer.encode("slow piano with rain")
    steps = 24
    codes = reference_codes(reference, [ids], steps, guidance_scale=3.0)
    del reference
    (found_codes,) = ours.tokens([Job("slow piano with rain", steps - 3, sampling=GREEDY)])
    assert np.array_equal(found_codes, codes)
