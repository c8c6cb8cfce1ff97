"""Token caches and the items of a language model: what is kept, what is never mixed up, and what is drawn."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.fingerprint_torch import fingerprint
from hemiola.musicgen.delay import DelayPattern
from hemiola.musicgen.tokenizer import Tokenizer
from hemiola.train import tokens
from hemiola.train.captions import learn_tokenizer
from hemiola.train.codec import initialise
from hemiola.train.data import clips
from hemiola.train.tokens import CaptionedTokens, Noise, TokenCache

RATE = 2000
PATTERN = DelayPattern((0, 1), special=16)


def codec(seed: int = 0) -> Encodec:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = {"hidden_size": 4, "num_filters": 2, "upsampling_ratios": (4, 2), "num_lstm_layers": 1}
        made = Encodec(EncodecConfig(target_bandwidths=(2.0,), sampling_rate=RATE, codebook_size=16, **shape)).eval()
        # Torch's own start would lose the signal on the way: all clips would have the same codes.
        initialise(made)
        for codebook in made.quantizer.codebooks:
            torch.nn.init.normal_(codebook.embed, std=0.1)
        return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, lengths in (("train", (400, 333, 500)), ("valid", (400, 333, 500))):
        (tmp_path / split).mkdir()
        for number, length in enumerate(lengths):
            audio = 0.1 * rng.standard_normal(length).astype(np.float32)
            soundfile.write(tmp_path / split / f"{number}.wav", audio, RATE, subtype="FLOAT")
    return tmp_path


def cache(folder: Path, split: str = "train", seed: int = 0) -> TokenCache:
    return TokenCache(folder / "tokens", codec(seed), clips(folder / split))


def forbid_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("encoded again")

    monkeypatch.setattr(TokenCache, "_encode", refuse)


def test_codes_are_the_codecs_own(folder: Path) -> None:
    codes = cache(folder).build()
    assert [each.shape for each in codes] == [(2, 50), (2, 42), (2, 63)]
    assert all(len(np.unique(each)) > 5 for each in codes)
    for clip, found in zip(clips(folder / "train"), codes):
        audio, _ = soundfile.read(clip.path, dtype="float32")
        expected = codec().encode_array(audio[None, None], 2)[0]
        np.testing.assert_array_equal(found, expected)


def test_the_codes_of_two_sides_lie_in_turns(folder: Path) -> None:
    rng = np.random.default_rng(1)
    soundfile.write(folder / "train" / "1.wav", 0.1 * rng.standard_normal((333, 2)), RATE, subtype="FLOAT")
    both = TokenCache(folder / "tokens", codec(), clips(folder / "train"), sides=2)
    codes = both.build()
    assert [each.shape for each in codes] == [(4, 50), (4, 42), (4, 63)]
    audio, _ = soundfile.read(folder / "train" / "1.wav", dtype="float32")
    for side in (0, 1):
        expected = codec().encode_array(audio.T[None, side : side + 1], 2)[0]
        np.testing.assert_array_equal(codes[1][side::2], expected)
    # What was mono is the same on both sides, and is kept apart from the mono codes.
    np.testing.assert_array_equal(codes[0][::2], codes[0][1::2])
    assert both.folder != cache(folder).folder


def test_what_is_there_is_not_encoded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SHARD_CLIPS", 2)
    seen: list[tuple[int, int]] = []
    first = cache(folder).build(lambda *at: seen.append(at))
    assert seen == [(2, 3), (3, 3)]
    forbid_encoding(monkeypatch)
    again = cache(folder).build()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_cache_may_be_moved_with_its_clips(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache(folder).build()
    moved = folder.rename(folder.with_name("moved"))
    forbid_encoding(monkeypatch)
    assert np.array_equal(cache(moved).build()[0], first[0])


def test_another_codec_does_not_take_these_tokens(folder: Path) -> None:
    first, other = cache(folder, seed=0).build(), cache(folder, seed=1).build()
    assert any(not np.array_equal(a, b) for a, b in zip(first, other))
    nudged = codec()
    with torch.no_grad():
        nudged.quantizer.codebooks[1].embed[3, 2] += 1e-3
    assert len({fingerprint(each) for each in (codec(), codec(1), nudged)}) == 3
    assert fingerprint(codec()) == fingerprint(codec())


def test_clips_of_one_name_and_length_are_told_apart(folder: Path) -> None:
    train, valid = (cache(folder, split).build() for split in ("train", "valid"))
    assert all(not np.array_equal(a, b) for a, b in zip(train, valid, strict=True))


def test_a_clip_that_was_replaced_is_encoded_again(folder: Path) -> None:
    before = cache(folder).build()
    soundfile.write(folder / "train" / "1.wav", np.full(350, 0.1, np.float32), RATE, subtype="FLOAT")
    after = cache(folder).build()
    assert after[1].shape == (2, 44)
    assert np.array_equal(after[0], before[0])


def test_a_shard_is_whole_or_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tokens, "save_file", stop)
        with pytest.raises(KeyboardInterrupt):
            cache(folder).build()
    assert not list((folder / "tokens").rglob("*.safetensors"))
    assert len(cache(folder).build()) == 3


CAPTIONS = ["slow piano, 80 bpm", "fast organ", "a bell in c# minor, 120 bpm", "strings", "drums"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    captions = [*CAPTIONS, *map(str, range(60, 150))]
    learn_tokenizer(captions, words=150).save(str(folder / "tokenizer.json"))
    return Tokenizer.from_folder(folder)


def codes(frames: int, clip: int) -> np.ndarray:
    """Codes in which every frame is another: clip and frame can be read off."""
    return (100 * clip + np.arange(frames))[None].repeat(2, 0).astype(np.int16)


def items(tokenizer: Tokenizer, lengths: tuple[int, ...] = (6, 6, 6, 6, 6), **settings: object) -> CaptionedTokens:
    made = [codes(length, clip) for clip, length in enumerate(lengths)]
    pattern = DelayPattern((0, 1), special=999)
    return CaptionedTokens(made, CAPTIONS[: len(made)], tokenizer, pattern, **{"frames": 6, **settings})


def test_targets_are_delayed_codes_and_stop_where_the_clip_does(tokenizer: Tokenizer) -> None:
    item = items(tokenizer, (3,), frames=5)[0]
    # Five frames and a delay of one are six steps after the special one; the clip has three frames.
    s = 999
    assert item["tokens"].tolist() == [[s, 0, 1, 2, s, s, s], [s, s, 0, 1, 2, s, s]]
    assert item["inside"].tolist() == [[False, *[True] * 3, *[False] * 3], [False, False, *[True] * 3, False, False]]
    assert item["text"].tolist() == tokenizer.encode(CAPTIONS[0])


def test_a_long_clip_gives_any_of_its_parts(tokenizer: Tokenizer) -> None:
    drawn = items(tokenizer, (9,), frames=6, seed=0)
    starts = []
    for item in range(200):
        row = drawn[item]["tokens"][0]
        assert row[1:7].tolist() == list(range(row[1], row[1] + 6))
        starts.append(int(row[1]))
    assert set(starts) == {0, 1, 2, 3}
    # The beginning of a clip is what a piece begins with, so it is heard more often than the rest.
    assert starts.count(0) > 100


def test_where_starts_are_known_a_part_begins_at_one_of_them(tokenizer: Tokenizer) -> None:
    drawn = items(tokenizer, (12,), frames=6, starts=[(0, 3, 5, 7)], seed=0)
    begun = [int(drawn[item]["tokens"][0, 1]) for item in range(100)]
    assert set(begun) == {0, 3, 5}  # from 7 on, less than a part is left
    assert begun.count(0) > 50


def test_items_are_pure_in_seed_and_number(tokenizer: Tokenizer) -> None:
    noise = Noise(0.2, 0.3, 0.1, 0.5)
    first, again, other = (items(tokenizer, (9,) * 5, noise=noise, seed=seed) for seed in (1, 1, 2))
    for item in (7, 0, 1_000_000):
        assert all(np.array_equal(first[item][key], again[item][key]) for key in first[item])
    assert any(not np.array_equal(first[item]["tokens"], other[item]["tokens"]) for item in range(5))


def test_a_pass_takes_every_clip_once_and_in_a_new_order(tokenizer: Tokenizer) -> None:
    drawn = items(tokenizer, seed=3)
    orders = [[int(drawn[5 * turn + place]["tokens"][0, 1]) // 100 for place in range(5)] for turn in range(6)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len({tuple(order) for order in orders}) > 3
    held_out = items(tokenizer)
    assert [int(held_out[item]["tokens"][0, 1]) // 100 for item in range(5)] == [0, 1, 2, 3, 4]


def test_a_caption_goes_with_its_own_codes(tokenizer: Tokenizer) -> None:
    drawn = items(tokenizer, seed=3)
    for item in range(15):
        clip = int(drawn[item]["tokens"][0, 1]) // 100
        assert drawn[item]["text"].tolist() == tokenizer.encode(CAPTIONS[clip])


def test_captions_are_dropped_as_often_as_was_asked(tokenizer: Tokenizer) -> None:
    drawn = items(tokenizer, seed=0, noise=Noise(text_dropped=0.25))
    lengths = [len(drawn[item]["text"]) for item in range(600)]
    assert lengths.count(0) / 600 == pytest.approx(0.25, abs=0.05)
    assert all(len(items(tokenizer, seed=0, noise=Noise(text_dropped=1.0))[item]["text"]) == 0 for item in range(5))


def test_words_become_unknown_but_never_the_end(tokenizer: Tokenizer) -> None:
    drawn = items(tokenizer, seed=0, noise=Noise(words_unknown=0.3))
    texts = [drawn[item]["text"] for item in range(400)]
    assert all(text[-1] == 1 for text in texts)
    words = np.array([*chain(*(text[:-1] for text in texts))])
    assert (words == 2).mean() == pytest.approx(0.3, abs=0.05)


def test_numbers_are_moved_by_a_share_at_most(tokenizer: Tokenizer) -> None:
    drawn = items(tokenizer, (6,), seed=0, noise=Noise(numbers_moved=0.1))
    known = {tokenizer.encode(str(number))[0]: number for number in range(60, 150)}
    moved = [known[int(drawn[item]["text"][2])] for item in range(300)]  # slow piano 80 bpm </s>
    assert min(moved) == 72
    assert max(moved) == 88
    assert np.mean(moved) == pytest.approx(80, abs=1)


def test_a_run_of_the_history_is_hidden_as_often_as_was_asked(tokenizer: Tokenizer) -> None:
    drawn = items(tokenizer, (9,), seed=0, noise=Noise(history_hidden=0.4))
    hidden = [drawn[item]["hidden"] for item in range(500)]
    touched = [each for each in hidden if each.any()]
    assert len(touched) / 500 == pytest.approx(0.4, abs=0.07)
    for each in touched:
        assert np.abs(np.diff(each.astype(int), prepend=0, append=0)).sum() == 2  # one run
    # Half of the runs begin with the piece; the others sometimes do too.
    assert np.mean([each[0] for each in touched]) == pytest.approx(0.55, abs=0.1)
    assert not any(items(tokenizer, (9,), seed=0)[item]["hidden"].any() for item in range(50))


def test_collating_pads_and_says_where(tokenizer: Tokenizer) -> None:
    drawn = items(tokenizer, (6, 6))
    dropped = {**drawn[1], "text": np.zeros(0, dtype=np.int64)}
    batch = CaptionedTokens.collate([drawn[0], drawn[1], dropped])
    assert batch["text_mask"].sum(1).tolist() == [5, 3, 0]
    for row, item in enumerate((drawn[0], drawn[1], dropped)):
        assert batch["text"][row][batch["text_mask"][row].bool()].tolist() == item["text"].tolist()
        assert np.array_equal(batch["tokens"][row], item["tokens"])
        assert np.array_equal(batch["inside"][row], item["inside"])
        assert np.array_equal(batch["hidden"][row], item["hidden"])
    # A batch without any text still has a column, for attention to have something to look at.
    assert CaptionedTokens.collate([dropped])["text"].shape == (1, 1)
