"""Latents of a dataset of pairs: what is kept of them, and what a blend training is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.errors import InputError
from hemiola.train import pairs
from hemiola.train.codec import initialise
from hemiola.train.data import StepData
from hemiola.train.latents import LatentCache, PairLatents
from hemiola.train.pairs import Cut, Pair, PairFolder
from hemiola.train.planted import Planted, fill

RATE, WIDTH, LENGTH, FRAMES = 2000, 4, 30, 8


def codec(seed: int = 0, **changed: object) -> Encodec:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = {"hidden_size": WIDTH, "num_filters": 2, "upsampling_ratios": (4, 2), "num_lstm_layers": 1}
        config = {"target_bandwidths": (2.0,), "sampling_rate": RATE, "codebook_size": 16, **shape, **changed}
        made = Encodec(EncodecConfig(**config)).eval()  # type: ignore[arg-type]
        # Torch's own start would lose the signal on the way.
        initialise(made)
        return made


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> PairFolder:
    wanted = Planted(pairs=2, valid_pairs=1, clip_seconds=1.5, stretch_seconds=0.75, sample_rate=RATE)
    return fill(tmp_path_factory.mktemp("planted") / "pairs", wanted)


# ---- what is kept


def test_latents_are_the_codecs_but_for_half_precision(planted: PairFolder) -> None:
    network = codec()
    folder = LatentCache(planted, network).build()
    for clip in planted.cuts:
        with torch.no_grad():
            expected = network.latents(torch.from_numpy(planted.audio(clip))[None])[0].numpy()
        kept = np.load(folder / f"{clip}.npy")
        assert kept.dtype == np.float16
        assert kept.shape == expected.shape == (WIDTH, 375)
        lost_db = 10 * np.log10(np.mean((kept - expected) ** 2) / np.mean(expected**2))
        assert lost_db < -70
    assert len(list(folder.iterdir())) == len(planted.cuts)


def test_latents_are_made_once_for_each_encoder(planted: PairFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = LatentCache(planted, codec())
    first.build()
    lost = first.folder / "train-000001-target.npy"
    before = lost.read_bytes()
    lost.unlink()
    asked: list[str] = []
    encoded = LatentCache._encoded

    def counted(self: LatentCache, clip: str) -> np.ndarray:
        asked.append(clip)
        return encoded(self, clip)

    monkeypatch.setattr(LatentCache, "_encoded", counted)
    seen: list[tuple[int, int]] = []
    first.build(lambda done, total: seen.append((done, total)))
    assert asked == ["train-000001-target"]
    assert lost.read_bytes() == before
    assert seen == [(done, 6) for done in range(1, 7)]
    # A decoder that was trained on leaves the latents what they are, an encoder does not.
    other = codec()
    with torch.no_grad():
        other.decoder.layers[0].conv.bias += 1
    LatentCache(planted, other).build()
    assert len(asked) == 1
    assert LatentCache(planted, codec(seed=1)).folder != first.folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sampling_rate": 1000}, "holds clips at 2000 Hz, the codec takes 1000 Hz"),
        ({"audio_channels": 2}, "one channel"),
        ({"chunk_length_s": 1.0, "overlap": 0.1}, "without chunks"),
    ],
)
def test_a_codec_that_does_not_fit_is_refused(planted: PairFolder, changed: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        LatentCache(planted, codec(**changed))


def test_latents_beyond_half_precision_are_refused(planted: PairFolder) -> None:
    network = codec(seed=5)
    with torch.no_grad():
        network.encoder.layers[-1].conv.bias += 1e6
    cache = LatentCache(planted, network)
    with pytest.raises(InputError, match="not finite or beyond 65504"):
        cache.build()
    assert not list(cache.folder.iterdir())


# ---- what training is given


def numbered(folder: Path, tracks: dict[str, str], made: list[Pair]) -> PairFolder:
    """A dataset whose latents say where they stand: value = 100 x the clip's place in `tracks` + its frame."""
    pairs.prepare(folder, {"made": "here"})
    cuts = [Cut(clip, track, "valid" if clip.startswith("v") else "train", "", 0, 1, RATE)
            for clip, track in tracks.items()]  # fmt: skip
    pairs.write(folder, cuts, made)
    for place, clip in enumerate(tracks):
        np.save(folder / f"{clip}.npy", np.tile(100 * place + np.arange(LENGTH), (WIDTH, 1)).astype(np.float16))
    return pairs.read(folder)


@pytest.fixture
def dataset(tmp_path: Path) -> PairFolder:
    """Four tracks of two clips in training, one pair in validation."""
    tracks = {f"{track}{place}": track for track in "abcd" for place in (1, 2)} | {"v1": "v", "v2": "w"}
    made = [Pair("train", f"{one}{place}", f"{other}{place}") for one, other in ("ab", "bc", "cd", "da")
            for place in (1, 2)]  # fmt: skip
    return numbered(tmp_path / "numbered", tracks, [*made, Pair("valid", "v1", "v2")])


def given(dataset: PairFolder, split: str = "train", **settings: object) -> PairLatents:
    return PairLatents(dataset, split, dataset.folder, **{"frames": FRAMES, **settings})  # type: ignore[arg-type]


def clip_of(dataset: PairFolder, latents: torch.Tensor) -> tuple[str, int]:
    """Which clip latents are of and from which frame on; they must be one whole stretch of it."""
    first = int(latents[0, 0])
    assert torch.equal(latents, (first + torch.arange(latents.shape[1])).expand(WIDTH, -1).float())
    return list(dataset.cuts)[first // 100], first % 100


def test_items_are_the_pairs_with_a_stretch_of_another_track(dataset: PairFolder) -> None:
    items = given(dataset, seed=3)
    starts, rows = set(), []
    for number in range(64):
        item = items[number]
        pair = items.pairs[item["pair"]]
        assert clip_of(dataset, item["input"]) == (pair.input, 0)
        assert clip_of(dataset, item["target"]) == (pair.target, 0)
        assert item["input"].shape == item["target"].shape == (WIDTH, LENGTH)
        real, start = clip_of(dataset, item["real"])
        assert item["real"].shape == (WIDTH, FRAMES) and start + FRAMES <= LENGTH
        assert dataset.cuts[real].track not in {dataset.cuts[pair.input].track, dataset.cuts[pair.target].track}
        assert dataset.cuts[real].split == "train"
        assert item["item"] == number
        starts.add(start)
        rows.append(item["pair"])
    # Anywhere in a clip, and every pair once a pass, each time in another order.
    assert {0, LENGTH - FRAMES} < starts
    passes = [rows[turn : turn + 8] for turn in range(0, 64, 8)]
    assert all(sorted(each) == list(range(8)) for each in passes)
    assert len({tuple(each) for each in passes}) > 6


def test_an_item_is_the_same_whenever_it_is_asked_for(dataset: PairFolder) -> None:
    items, again, other = given(dataset, seed=3), given(dataset, seed=3), given(dataset, seed=4)
    for number in (63, 0, 1_000_003):
        one, two = items[number], again[number]
        assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(two[name])) for name in one)
    assert any(items[number]["pair"] != other[number]["pair"] for number in range(8))
    assert any(not torch.equal(items[number]["real"], other[number]["real"]) for number in range(8))


def test_validation_takes_pairs_in_order_and_real_music_from_training_where_it_has_none(dataset: PairFolder) -> None:
    items = given(dataset, "valid")
    assert len(items) == 1
    assert items[0]["pair"] == 0
    assert clip_of(dataset, items[0]["input"]) == ("v1", 0)
    assert clip_of(dataset, items[0]["real"])[0][0] in "abcd"
    ordered = given(dataset)
    assert [ordered[number]["pair"] for number in range(len(ordered))] == list(range(8))


def test_unity_and_shuffled_targets(dataset: PairFolder) -> None:
    unity, shuffled = given(dataset, seed=3, mode="unity"), given(dataset, seed=3, mode="shuffle_targets")
    seen = set()
    for number in range(100):
        item = unity[number]
        assert torch.equal(item["input"], item["target"])
        assert clip_of(dataset, item["input"])[0] == unity.pairs[item["pair"]].input
        item = shuffled[number]
        pair, target = shuffled.pairs[item["pair"]], clip_of(dataset, item["target"])[0]
        assert clip_of(dataset, item["input"])[0] == pair.input
        assert target not in (pair.input, pair.target)
        real = dataset.cuts[clip_of(dataset, item["real"])[0]].track
        assert real not in (dataset.cuts[pair.input].track, dataset.cuts[target].track)
        seen.add((item["pair"], target))
    assert len(seen) > 40


def test_audio_is_that_of_the_items_clips(planted: PairFolder) -> None:
    folder = LatentCache(planted, codec()).build()
    items = PairLatents(planted, "train", folder, frames=50)
    shown, heard = items.audio(1)
    np.testing.assert_array_equal(shown, planted.audio("train-000001-input"))
    np.testing.assert_array_equal(heard, planted.audio("train-000001-target"))
    unity = PairLatents(planted, "train", folder, frames=50, mode="unity")
    np.testing.assert_array_equal(unity.audio(1)[1], shown)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "unison"}, "pairs, unity, shuffle_targets"),
        ({"split": "test"}, "no pairs for test"),
        ({"split": "valid", "mode": "shuffle_targets"}, "too few targets"),
        ({"frames": LENGTH + 1}, "shorter than an output of 31 frames"),
        ({"latents": Path("nowhere")}, "latents of a1 cannot be read"),
    ],
)
def test_what_cannot_be_given_is_refused_at_once(dataset: PairFolder, settings: dict, said: str) -> None:
    wanted = {"split": "train", "latents": dataset.folder, "frames": FRAMES, **settings}
    with pytest.raises(InputError, match=said):
        PairLatents(dataset, **wanted)


def test_what_is_real_needs_a_track_of_its_own(tmp_path: Path) -> None:
    across = numbered(tmp_path / "across", {"a1": "a", "b1": "b"}, [Pair("train", "a1", "b1")])
    with pytest.raises(InputError, match="needs a track beside those of each pair"):
        given(across)
    # Within tracks two are enough, as long as targets stay in theirs.
    tracks = {f"{track}{place}": track for track in "ab" for place in (1, 2)}
    made = [Pair("train", f"{track}{place}", f"{track}{3 - place}") for track in "ab" for place in (1, 2)]
    within = numbered(tmp_path / "within", tracks, made)
    for item in range(8):
        one = given(within, seed=0)[item]
        assert clip_of(within, one["real"])[0][0] != clip_of(within, one["input"])[0][0]
    with pytest.raises(InputError, match="needs a track beside those of each pair"):
        given(within, mode="shuffle_targets")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_is_fed_with_batches(dataset: PairFolder, workers: int) -> None:
    items = given(dataset, seed=3)
    data = StepData(items, given(dataset), steps=3, batch=4, workers=workers)
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    assert batches[2]["input"].shape == (4, WIDTH, LENGTH)
    assert batches[2]["real"].shape == (4, WIDTH, FRAMES)
    assert batches[2]["item"].tolist() == [8, 9, 10, 11]
    assert torch.equal(batches[2]["target"][1], items[9]["target"])
    assert [batch["pair"].tolist() for batch in data.val_dataloader()] == [[0, 1, 2, 3], [4, 5, 6, 7]]
