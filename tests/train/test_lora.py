"""LoRA: it starts as the model was, only low ranks learn, and what is merged or kept beside is what was learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from hemiola.errors import InputError
from hemiola.musicgen.config import DecoderConfig
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.model import MusicgenModel
from hemiola.train import lora, runs

LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")


def decoder() -> Decoder:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24}
    return Decoder(DecoderConfig(vocab_size=8, num_codebooks=2, initializer_factor=0.2, **shape), 8)


def logits(model: Decoder) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(8, (2, 2, 7), generator=generator)
    return model(tokens, torch.randn(2, 3, 8, generator=generator), torch.ones(2, 3))


def test_it_starts_as_the_model_was_and_only_what_is_beside_learns() -> None:
    torch.manual_seed(0)
    model = decoder()
    before, names = logits(model).detach(), set(model.state_dict())
    lora.adapt(model, rank=3, alpha=6.0)
    assert torch.equal(logits(model), before)
    learns = {name for name, each in model.named_parameters() if each.requires_grad}
    assert learns == set(model.state_dict()) - names
    # 2 layers of 2 attentions with 4 matrices and 2 more, each with an A and a B
    assert len(learns) == 2 * (2 * 4 + 2) * 2
    logits(model).square().sum().backward()
    assert all((each.grad is not None) == (name in learns) for name, each in model.named_parameters())


def test_what_is_merged_does_the_same_and_what_is_kept_makes_it_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = decoder()
    plain = {name: each.clone() for name, each in model.state_dict().items()}
    lora.adapt(model, rank=3, alpha=6.0)
    for name, each in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(each, std=0.3)
    merged = lora.merged(model)
    assert set(merged.state_dict()) == set(plain)
    assert (logits(merged) - logits(model)).abs().max() < 1e-5
    lora.save(model, tmp_path, "base", alpha=6.0)
    kept, config = load_file(tmp_path / lora.WEIGHTS), json.loads((tmp_path / lora.CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (3, 6.0, "base")
    for layer in LAYERS:
        name = f"model.decoder.layers.1.{layer}"
        down, up = (kept[f"base_model.model.decoder.{name}.lora_{part}.weight"] for part in "AB")
        expected = plain[f"{name}.weight"] + 6.0 / 3 * up @ down
        torch.testing.assert_close(merged.state_dict()[f"{name}.weight"], expected)


def test_a_fine_tuned_model_loads_here_and_in_transformers(
    musicgen_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet, modules = runs.fit, []

    def fit(module: Any, *args: Any, **kwargs: Any) -> Any:
        modules.append(module)
        return quiet(module, *args, **kwargs, progress=False)

    monkeypatch.setattr(runs, "fit", fit)
    base = runs.train_musicgen(musicgen_config(steps=3) | {"generation": {"temperature": 0.75}})
    config = musicgen_config(steps=12, folder=str(tmp_path / "tuned"), checkpoint_every_steps=5)
    for section in ("text", "model", "codec"):
        del config[section]
    config["start"] = {"path": str(base)}
    config["recipe"] |= {"lora_rank": 2, "learning_rate": 0.05}
    folder = runs.train_musicgen(config)
    started, tuned = modules

    kept = load_file(tmp_path / "tuned" / "adapter" / lora.WEIGHTS)
    assert all(each.abs().sum() > 0 for each in kept.values())
    for name, each in started.text_encoder.state_dict().items():
        # The start is kept in half precision.
        assert torch.equal(tuned.text_encoder.state_dict()[name], each.half().float())
    assert MusicgenModel.from_pretrained(folder, backend="torch").recommended.temperature == 0.75, "as before"
    theirs = transformers.MusicgenForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    before = transformers.MusicgenForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
    text, mask = torch.tensor([[3, 4, 1], [5, 1, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    tokens = torch.randint(8, (2, 2, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tuned.eval().decoder(tokens, tuned.text_encoder(text, mask), mask)
        given = {"input_ids": text, "attention_mask": mask, "decoder_input_ids": tokens.reshape(4, -1)}
        found, was = (model(**given).logits.view_as(expected) for model in (theirs, before))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)
    assert (found - was).abs().max() > 0.1


def test_lora_needs_a_model_to_start_from(musicgen_config: Callable[..., dict[str, Any]]) -> None:
    config = musicgen_config()
    config["recipe"]["lora_rank"] = 2
    with pytest.raises(InputError, match=r"recipe\.lora_rank needs a model to start from"):
        runs.train_musicgen(config)
    config["recipe"]["lora_rank"] = -2
    with pytest.raises(InputError, match=r"recipe\.lora_rank must be at least 1"):
        runs.train_musicgen(config)
