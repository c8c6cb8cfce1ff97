"""The decoder, and whole generations, against transformers' MusicGen on tiny random weights."""

from __future__ import annotations

import pytest
import torch
import transformers

from hemiola.musicgen.config import DecoderConfig
from hemiola.musicgen.decoder_torch import Decoder

TEXT_WIDTH = 20


def reference_model(channels: int = 1, text_width: int = TEXT_WIDTH) -> transformers.MusicgenForConditionalGeneration:
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
