"""Melody models against transformers' MusicgenMelody on tiny random weights, mono and stereo, on both backends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tokenizers
import torch
import transformers

from hemiola.musicgen import decoder_mlx, decoder_torch
from hemiola.musicgen.batch import Job
from hemiola.musicgen.config import MusicgenConfig
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling

WORDS = ["slow", "piano", "with", "rain", "calm", "bright", "drums", "and", "a", "bass", "line", "in", "minor"]
ROWS, GREEDY = 19, Sampling(temperature=0)
TEXTS = ["slow piano with rain", "calm bass"]

Reference = transformers.MusicgenMelodyForConditionalGeneration


def reference_model(channels: int, text_width: int = 20, width: int = 32) -> Reference:
    torch.manual_seed(6)
    config = transformers.MusicgenMelodyConfig(
        text_encoder=transformers.T5Config(
            vocab_size=60, d_model=text_width, d_kv=4, d_ff=24, num_layers=2, num_heads=4
        ),
        audio_encoder=transformers.EncodecConfig(
            target_bandwidths=[5.0],
            sampling_rate=800,
            num_filters=2,
            hidden_size=8,
            codebook_size=32,
            upsampling_ratios=[4, 2],
            num_lstm_layers=1,
        ),
        decoder=transformers.MusicgenMelodyDecoderConfig(
            vocab_size=32,
            hidden_size=width,
            num_hidden_layers=3,
            num_attention_heads=4,
            ffn_dim=48,
            num_codebooks=4 * channels,
            audio_channels=channels,
            pad_token_id=32,
            bos_token_id=32,
        ),
        chroma_length=ROWS,
    )
    model = Reference(config).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("decoder.", "enc_to_dec", "audio_enc_to_dec")):
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("codebook.embed"):
            torch.nn.init.normal_(buffer)
    return model


def written(reference: Reference, folder: Path) -> Path:
    reference.save_pretrained(folder)
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def rows(seed: int, length: int = ROWS) -> np.ndarray:
    return np.eye(12, dtype=np.float32)[np.random.default_rng(seed).integers(12, size=length)]


def reference_codes(reference: Reference, ids: list[int], steps: int, **settings: object) -> np.ndarray:
    """Codes [K, steps - 3] of one text that transformers generates greedily, caught on their way into its codec."""
    caught: list[torch.Tensor] = []
    decode = reference.audio_encoder.decode
    reference.audio_encoder.decode = lambda codes, audio_scales: caught.append(codes[0]) or decode(codes, audio_scales)
    try:
        reference.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=steps,
            decoder_start_token_id=32,
            pad_token_id=32,
            **settings,
        )
    finally:
        reference.audio_encoder.decode = decode
    return torch.stack(caught, dim=2).flatten(1, 2).numpy()[0]


@pytest.mark.parametrize(("channels", "text_width", "width"), [(1, 20, 32), (2, 20, 32), (1, 32, 32), (1, 20, 12)])
@pytest.mark.parametrize("has_tune", [True, False])
def test_logits_of_a_whole_sequence_equal_transformers(
    channels: int, text_width: int, width: int, has_tune: bool
) -> None:
    reference = reference_model(channels, text_width, width)
    config = MusicgenConfig.from_dict(reference.config.to_dict()).decoder
    tensors = dict(reference.decoder.state_dict())
    for name in ("enc_to_dec_proj", "audio_enc_to_dec_proj"):
        if hasattr(reference, name):
            tensors |= {f"{name}.{key}": each for key, each in getattr(reference, name).state_dict().items()}
    on_torch, on_mlx = (module.Decoder(config, text_width) for module in (decoder_torch, decoder_mlx))
    on_torch.load_state_dict(tensors, strict=True)
    on_mlx.load_weights([(name, mx.array(each.numpy())) for name, each in tensors.items()])
    ids, mask = torch.randint(3, 16, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    codebooks, steps = 4 * channels, 37
    tokens = torch.randint(33, (2, codebooks, steps))
    tune = torch.tensor(np.stack([rows(1), rows(2)])) if has_tune else None
    with torch.inference_mode():
        text = reference.text_encoder(input_ids=ids, attention_mask=mask)[0]
        wanted = reference(
            input_ids=ids,
            attention_mask=mask,
            input_features=tune,
            decoder_input_ids=tokens.reshape(2 * codebooks, steps),
        ).logits[:, -steps:]
        found = on_torch(tokens, text, mask, tune)
    again = on_mlx(*(None if each is None else mx.array(each.numpy()) for each in (tokens, text, mask, tune)))
    torch.testing.assert_close(found, wanted.view_as(found), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(np.array(again), wanted.view_as(found), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_greedy_tokens_equal_transformers(channels: int, guidance: float, tmp_path: Path) -> None:
    reference = reference_model(channels)
    folder = written(reference, tmp_path / "melody")
    models = [MusicgenModel.from_pretrained(folder, backend=each, device="cpu") for each in ("torch", "mlx")]
    tunes = [rows(3), None]
    wanted = [
        reference_codes(
            reference,
            models[0].tokenizer.encode(text),
            100,
            guidance_scale=guidance,
            **({} if tune is None else {"input_features": torch.tensor(tune)[None]}),
        )
        for text, tune in zip(TEXTS, tunes)
    ]
    assert len(np.unique(wanted)) > 8, "a decoder stuck on one token would prove little"
    jobs = [Job(text, 97, sampling=replace(GREEDY, guidance=guidance), melody=tune) for text, tune in zip(TEXTS, tunes)]
    for model in models:
        for job, codes in zip(jobs, wanted):
            assert np.array_equal(next(model.tokens([job]))[0], codes)
        assert np.array_equal(next(model.tokens(jobs)), wanted)


def test_a_prompt_and_a_tune_go_on_as_in_transformers(tmp_path: Path) -> None:
    reference = reference_model(1)
    folder = written(reference, tmp_path / "melody")
    prompt = np.random.default_rng(1).integers(32, size=(4, 9))
    for backend in ("torch", "mlx"):
        model = MusicgenModel.from_pretrained(folder, backend=backend, device="cpu")
        ids = model.tokenizer.encode("calm piano")
        settings = {"guidance_scale": 3.0, "decoder_input_ids": torch.tensor(prompt)}
        wanted = reference_codes(reference, ids, 24, input_features=torch.tensor(rows(5))[None], **settings)
        (found,) = model.tokens([Job("calm piano", 30, sampling=GREEDY, prompt=prompt, melody=rows(5))])
        assert np.array_equal(found[0], wanted)


def jobs(codebooks: int) -> list[Job]:
    prompt = np.random.default_rng(2).integers(32, size=(codebooks, 6))
    return [
        Job("slow piano with rain and a bass line", 21, seed=1, melody=rows(1)),
        Job(None, 30, seed=3),
        Job("calm", 13, seed=2, sampling=Sampling(top_k=5)),
        Job(None, 18, seed=3, melody=rows(2)),
        Job("bright drums", 17, seed=4, sampling=replace(GREEDY, guidance=1), melody=rows(1)),
        Job("calm", 26, seed=2, negative="drums in a minor bass line", melody=rows(4)),
        Job("slow bass", 19, seed=6, prompt=prompt),
        Job("a bright line", 17, seed=6, prompt=prompt[:, :2], melody=rows(3), negative="slow"),
        Job(None, 5, seed=8, negative="rain"),
    ]


@pytest.mark.parametrize("channels", [1, 2])
def test_each_job_alone_and_all_together_are_the_same_on_both_backends(channels: int, tmp_path: Path) -> None:
    folder = written(reference_model(channels), tmp_path / "melody")
    on_torch, on_mlx = (MusicgenModel.from_pretrained(folder, backend=each, device="cpu") for each in ("torch", "mlx"))
    every = jobs(4 * channels)
    together = [next(model.tokens(every)) for model in (on_torch, on_mlx)]
    assert np.array_equal(*together)
    for job, codes in zip(every, together[0]):
        for model in (on_torch, on_mlx):
            assert np.array_equal(next(model.tokens([job]))[0], codes[:, : job.frames])
    tuned, untuned = (next(on_torch.tokens([Job("calm", 20, seed=1, melody=each)])) for each in (rows(1), None))
    assert not np.array_equal(tuned, untuned)


def test_transformers_reads_the_config_that_we_write() -> None:
    reference = reference_model(2)
    config = MusicgenConfig.from_dict(reference.config.to_dict())
    again = transformers.MusicgenMelodyConfig.from_dict(config.to_dict())
    assert MusicgenConfig.from_dict(again.to_dict()) == config
    assert (again.chroma_length, again.num_chroma, again.decoder.num_codebooks) == (ROWS, 12, 8)
