"""The text encoder against transformers' T5."""

from __future__ import annotations

import pytest
import torch
import transformers

from hemiola.musicgen.config import T5Config
from hemiola.musicgen.t5_torch import T5Encoder


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
@pytest.mark.parametrize("length", [1, 7, 61])
def test_states_equal_transformers(feed_forward: str, length: int) -> None:
    torch.manual_seed(length)
    # 8 buckets up to distance 20, so that 61 places reach near, far and farthest ones in both directions.
    reference = transformers.T5EncoderModel(
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
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = T5Encoder(T5Config.from_dict(reference.config.to_dict()))
    tensors = {name: tensor for name, tensor in reference.state_dict().items() if "embed_tokens" not in name}
    ours.load_state_dict(tensors, strict=True)
    tokens = torch.randint(50, (2, length))
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, (length + 1) // 2 :] = 0
    with torch.inference_mode():
        wanted = reference(input_ids=tokens, attention_mask=mask).last_hidden_state
        found = ours(tokens, mask)
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)
