"""Training a MusicGen: the loss by hand, what moves, what it learns, and what transformers reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from hemiola.errors import InputError
from hemiola.musicgen.config import DecoderConfig, T5Config
from hemiola.musicgen.decoder_torch import Decoder, attend
from hemiola.musicgen.model import MusicgenModel
from hemiola.musicgen.sampling import Sampling
from hemiola.musicgen.t5_torch import T5Encoder
from hemiola.train import runs
from hemiola.train.musicgen import MusicgenRecipe, MusicgenTraining, initialise

CODES, WORDS = 8, 12
SPECIAL = CODES


def training(**recipe: Any) -> MusicgenTraining:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = T5Encoder(T5Config(vocab_size=WORDS, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 16}
        decoder = Decoder(DecoderConfig(vocab_size=CODES, num_codebooks=2, initializer_factor=0.2, **shape), 8)
        return MusicgenTraining(text, decoder, MusicgenRecipe(**recipe), steps=100)


def batch(frames: tuple[int, ...] = (5, 3), texts: tuple[int, ...] = (4, 2)) -> dict[str, Tensor]:
    """Random codes in the pattern (0, 1) of five frames; rows with fewer frames and words are padded."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.full((len(frames), 2, 7), SPECIAL)
    inside = torch.zeros(len(frames), 2, 7, dtype=torch.bool)
    for row, count in enumerate(frames):
        for k in range(2):
            inside[row, k, 1 + k : 1 + k + count] = True
    tokens[inside] = torch.randint(CODES, (int(inside.sum()),), generator=generator)
    mask = (torch.arange(max(texts))[None] < torch.tensor(texts)[:, None]).long()
    text = torch.randint(3, WORDS, mask.shape, generator=generator) * mask
    hidden = torch.zeros(len(frames), 7, dtype=torch.bool)
    return {"tokens": tokens, "inside": inside, "hidden": hidden, "text": text, "text_mask": mask}


def test_the_loss_is_the_mean_over_places_that_hold_a_frame() -> None:
    module, given = training().double(), batch()
    loss, per_codebook = module.loss(given)
    with torch.no_grad():
        states = module.text_encoder(given["text"], given["text_mask"])
        logits = module.decoder(given["tokens"][..., :-1], states, given["text_mask"]).float().double().numpy()
    costs: dict[int, list[float]] = {0: [], 1: []}
    for row in range(2):
        for k in range(2):
            for position in range(1, 7):
                if given["inside"][row, k, position]:
                    scores = logits[row, k, position - 1]
                    target = int(given["tokens"][row, k, position])
                    costs[k].append(float(np.log(np.exp(scores).sum()) - scores[target]))
    assert [len(each) for each in costs.values()] == [8, 8]
    assert loss.item() == pytest.approx(np.mean(costs[0] + costs[1]), rel=1e-5)
    assert per_codebook.tolist() == pytest.approx([np.mean(costs[0]), np.mean(costs[1])], rel=1e-5)


def test_what_stands_outside_does_not_count() -> None:
    module, given = training(), batch()
    expected = module.loss(given)[0]
    # Words behind the mask, and what is written where the shorter clip is over.
    changed = {name: each.clone() for name, each in given.items()}
    changed["text"][1, 2:] = 7
    changed["tokens"][1, :, 6] = 3
    torch.testing.assert_close(module.loss(changed)[0], expected)


def test_a_row_without_text_is_the_null_condition() -> None:
    module, given = training(), batch(texts=(4, 0))
    loss, _ = module.loss(given)
    assert loss.isfinite()
    given["text"][1] = 9
    torch.testing.assert_close(module.loss(given)[0], loss)


def test_what_is_hidden_is_not_seen_but_still_asked_for() -> None:
    module, given = training(), batch()
    seen, _ = module.loss(given)
    given["hidden"][:, :4] = True
    hidden, _ = module.loss(given)
    assert hidden.item() != pytest.approx(seen.item(), rel=1e-6)
    # Position 0 is special in any case: a run that hides all it can leaves text and place alone to go by.
    given["hidden"][:] = True
    states = module.text_encoder(given["text"], given["text_mask"])
    logits = module.decoder(torch.full((2, 2, 6), SPECIAL), states, given["text_mask"])
    targets = torch.where(given["inside"], given["tokens"], -100)[..., 1:]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 2), targets.flatten())
    torch.testing.assert_close(module.loss(given)[0], expected)


def test_a_history_of_its_own_is_drawn_from_what_the_model_thinks_there() -> None:
    module, one = training(history_own=1.0), batch(frames=(5,), texts=(4,))
    many = {name: each.expand(4000, *each.shape[1:]) for name, each in one.items()} | {"seed": torch.arange(4000)}
    states = module.text_encoder(many["text"], many["text_mask"])
    before = module._rewritten(many, states)
    inside = one["inside"][0]
    assert torch.equal(before[:, ~inside], many["tokens"][:, ~inside])
    # A token is rewritten with the chance that its item drew, a half in the mean, and may come out as it was.
    shares = module.decoder(one["tokens"][..., :-1], states[:1], one["text_mask"]).softmax(-1)[0]
    for k, position in inside.nonzero().tolist():
        expected = 0.5 * shares[k, position - 1]
        expected[one["tokens"][0, k, position]] += 0.5
        found = torch.bincount(before[:, k, position], minlength=CODES) / 4000
        torch.testing.assert_close(found, expected, atol=0.04, rtol=0)


def test_a_history_of_its_own_is_an_items_own_and_only_trained_with() -> None:
    module, given = training(history_own=1.0), batch() | {"seed": torch.tensor([3, 4])}
    states = module.text_encoder(given["text"], given["text_mask"])
    together = module._rewritten(given, states)
    alone = module._rewritten({name: each[1:] for name, each in given.items()}, states[1:])
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together, given["tokens"])
    plain, _ = training().loss(given)
    learned, _ = module.loss(given)
    assert learned.item() != pytest.approx(plain.item(), rel=1e-6)
    torch.testing.assert_close(module.eval().loss(given)[0], plain)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="history_own must be a share from 0 to 1"):
        MusicgenRecipe(history_own=share)


def test_a_new_decoder_hears_tokens_and_text_from_the_first_step() -> None:
    config = DecoderConfig(vocab_size=64, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, ffn_dim=512)
    torch.manual_seed(0)
    decoder, mask = Decoder(config, 32), torch.ones(2, 6)
    initialise(decoder)
    tokens, text = torch.randint(64, (2, 4, 50)), torch.randn(2, 6, 32)
    stack = decoder.model["decoder"]
    together = sum(table(tokens[:, k]) for k, table in enumerate(stack.embed_tokens))
    assert together.square().mean().sqrt().item() == pytest.approx(0.5**0.5, rel=0.1)
    states = stack(tokens, decoder.project(text, mask), torch.ones(2, 1, 1, 6, dtype=torch.bool))
    other = stack(tokens, decoder.project(torch.randn(2, 6, 32), mask), torch.ones(2, 1, 1, 6, dtype=torch.bool))
    assert (states - other).square().mean().sqrt().item() > 0.05
    # Every token is about as likely at first.
    assert decoder(tokens, text, mask).softmax(-1).max().item() < 0.1


@pytest.mark.parametrize("causal", [True, False])
def test_attention_learns_as_the_fused_kernel_does(causal: bool) -> None:
    given = [torch.randn(2, 3, length, 4, dtype=torch.float64) for length in ((6, 6, 6) if causal else (6, 5, 5))]
    allowed = None if causal else torch.rand(2, 1, 1, 5) > 0.4
    if allowed is not None:
        allowed[..., 0] = True
    ours, theirs = ([each.clone().requires_grad_() for each in given] for _ in range(2))
    out = attend(ours[0], ours[1], ours[2], allowed)
    expected = torch.nn.functional.scaled_dot_product_attention(*theirs, attn_mask=allowed, is_causal=causal)
    torch.testing.assert_close(out, expected)
    for result in (out, expected):
        result.square().sum().backward()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.grad, b.grad)


def test_every_parameter_learns_and_no_table_decays() -> None:
    module = training(weight_decay=0.3)
    (optimizer,) = (each["optimizer"] for each in module.configure_optimizers())
    decayed, flat = ({id(each) for each in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    for name, each in module.named_parameters():
        is_matrix = name.endswith(("proj.weight", "fc1.weight", "fc2.weight", ".q.weight", ".k.weight", ".v.weight"))
        is_matrix |= name.endswith((".o.weight", ".wi.weight", ".wo.weight")) or "lm_heads" in name
        if "relative_attention_bias" not in name:
            assert (id(each) in decayed, id(each) in flat) == (is_matrix, not is_matrix), name
    module.loss(batch())[0].backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in module.parameters())


def test_the_learning_rate_warms_up_and_falls_to_its_share() -> None:
    module = training(warmup_steps=10, final_share=0.1)
    shares = [module._share(step) for step in (0, 4, 9, 50, 100, 500)]
    # 9 of 100 steps down a cosine that ends at a tenth.
    assert shares == pytest.approx([0.1, 0.498, 0.982, 0.55, 0.1, 0.1], abs=2e-3)


def test_muon_has_the_matrices_of_layers_and_adamw_what_is_left() -> None:
    module = training(muon=True, weight_decay=0.3)
    rest, muon = (each["optimizer"] for each in module.configure_optimizers())
    assert (type(rest), type(muon)) == (torch.optim.AdamW, torch.optim.Muon)
    places = {id(each) for each in muon.param_groups[0]["params"]}
    assert muon.param_groups[0]["weight_decay"] == 0.3
    others = [id(each) for group in rest.param_groups for each in group["params"]]
    assert len(others) == len(set(others))
    assert not places & set(others)
    assert places | set(others) == {id(each) for each in module.parameters()}
    inner = ("_proj", "fc1", "fc2", ".q", ".k", ".v", ".o", ".wi", ".wo")
    for name, each in module.named_parameters():
        expected = name.removesuffix(".weight").endswith(inner) and "enc_to_dec_proj" not in name
        assert (id(each) in places) == expected, name


@pytest.mark.parametrize("muon", [False, True])
def test_it_learns_what_the_caption_says(muon: bool) -> None:
    """Two captions, two melodies: only through the text can the first frame be known."""
    torch.manual_seed(0)
    module, given = training(warmup_steps=1, learning_rate=0.03, muon=muon), batch(frames=(5, 5))
    optimizers = [each["optimizer"] for each in module.configure_optimizers()]
    for _ in range(80):
        module.zero_grad()
        loss, _ = module.loss(given)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    assert loss < 0.05
    crossed = {**given, "text": given["text"].flip(0), "text_mask": given["text_mask"].flip(0)}
    assert module.loss(crossed)[0] > 1


def test_what_is_trained_loads_here_and_in_transformers(
    musicgen_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = musicgen_config(steps=12, validate_every_steps=12, log_every_steps=4)
    config["generation"] = {"temperature": 0.75, "top_k": 9}
    quiet, modules = runs.fit, []

    def fit(module: MusicgenTraining, *args: Any, **kwargs: Any) -> Any:
        modules.append(module)
        return quiet(module, *args, **kwargs, progress=False)

    monkeypatch.setattr(runs, "fit", fit)
    folder = runs.train_musicgen(config)
    assert (Path(config["data"]["folder"]) / "tokens").is_dir()
    model = MusicgenModel.from_pretrained(folder, backend="torch")
    assert model.tokenizer.encode("C# minor!")[-1] == 1
    assert model.recommended == Sampling(guidance=3.0, top_k=9, temperature=0.75)

    theirs = transformers.MusicgenForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    given = batch(texts=(4, 4))
    module = modules[0].eval()
    with torch.no_grad():
        states = module.text_encoder(given["text"], given["text_mask"])
        expected = module.decoder(given["tokens"][..., :-1], states, given["text_mask"])
        found = theirs(
            input_ids=given["text"],
            attention_mask=given["text_mask"],
            decoder_input_ids=given["tokens"][..., :-1].reshape(4, -1),
        ).logits.view_as(expected)
    asked = theirs.generation_config
    assert (asked.guidance_scale, asked.top_k, asked.temperature, asked.do_sample) == (3.0, 9, 0.75, True)
    # The weights are kept in half precision.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)
    assert expected.std() > 0.1


def test_a_step_in_parts_is_the_step(
    musicgen_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows hold different numbers of places: the mean of the parts' means would be another one."""
    quiet = runs.fit
    monkeypatch.setattr(runs, "fit", lambda *args, **kwargs: quiet(*args, **kwargs, progress=False))
    states = []
    for parts in (1, 4):
        settings = {"steps": 5, "batch": 4, "accumulate": parts, "validate_every_steps": 5}
        runs.train_musicgen(musicgen_config(folder=str(tmp_path / str(parts)), **settings))
        states.append(torch.load(tmp_path / str(parts) / "last.ckpt", weights_only=True)["state_dict"])
    for name, each in states[0].items():
        torch.testing.assert_close(states[1][name], each, rtol=1e-5, atol=1e-5)


def test_a_stereo_model_is_trained_and_trained_further(
    musicgen_config: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = runs.fit
    monkeypatch.setattr(runs, "fit", lambda *args, **kwargs: quiet(*args, **kwargs, progress=False))
    config = musicgen_config(steps=2)
    config["model"] |= {"audio_channels": 2, "num_codebooks": 4}
    first = runs.train_musicgen(config)
    again = musicgen_config(steps=2, folder=str(tmp_path / "again"))
    del again["model"], again["text"], again["codec"]
    model = MusicgenModel.from_pretrained(
        runs.train_musicgen({**again, "start": {"path": str(first)}}), backend="torch"
    )
    assert (model.channels, model.config.decoder.num_codebooks) == (2, 4)
