"""What a blend's validation writes: read back from disk, with sums done by hand and pixels where they must be."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from hemiola.blend import picture
from hemiola.blend.network_torch import Blended
from hemiola.blend.passage import Passage, Span
from hemiola.blend.selector_torch import Windows
from hemiola.timebase import Timebase
from hemiola.train import blend_report

CLOCK = Timebase(2000, 20)  # 100 frames a second
FRAMES, CLIP_FRAMES = 40, 120
STARTS = torch.tensor([[0.0, 10.0], [0.0, 80.0]]), torch.tensor([[3.0, 7.0], [60.5, 0.0]])
RATIOS = torch.tensor([[1.0, 1.0], [1.5, 1.0]]), torch.tensor([[1.0, 1.0], [0.75, 1.2]])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blended() -> tuple[Blended, list[torch.Tensor]]:
    """Two pairs with two passages, and the sounds of the second pair: 1 is its target, 2 has nothing of either."""
    samples = CLOCK.samples_of(FRAMES)
    output, input_, target = (noise(2, 2, 1, samples, seed=seed) for seed in range(3))
    output[1, 0] = 0.5 * target[1, 0]
    latents = torch.zeros(2, 2, 3, FRAMES)
    components = noise(2, 2, 6, FRAMES, seed=5).softmax(2)
    windows = Windows(STARTS[0], RATIOS[0], STARTS[1], RATIOS[1])
    made = Blended(latents, latents, latents, components, windows, torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    return made, [output[1], input_[1], target[1]]


def passages() -> list[Passage]:
    return blend_report.passages(*blended(), CLOCK, item=1)


def clips() -> tuple[np.ndarray, np.ndarray]:
    first, second = (noise(1, CLOCK.samples_of(CLIP_FRAMES), seed=seed).numpy() for seed in (7, 8))
    return first, second


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a validation that was written twice, at first with one passage only."""
    folder = tmp_path_factory.mktemp("report") / "step-10"
    for count in (1, 2):
        blend_report.write(folder, "pair-7", clips(), passages()[:count])
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_places_are_true_seconds() -> None:
    first, second = passages()
    # 39 steps of 1.5 frames after frame 0, and that frame itself: 59.5 frames of 10 ms.
    assert first.input == Span(0.0, pytest.approx(0.595), 1.5)
    assert first.target == Span(0.605, pytest.approx(0.605 + 39 * 0.0075 + 0.01), 0.75)
    assert second.input == Span(pytest.approx(0.8), pytest.approx(1.2), 1.0)  # to the clip's very end
    assert second.target.end_seconds == pytest.approx(0.478)


def test_in_training_it_is_the_chosen_windows_that_are_told() -> None:
    made, sounds = blended()
    others = [torch.stack([each, each + 7], dim=-1) for each in made.windows.parts]
    made.windows = Windows(*others, weights=torch.tensor([1.0, 0.0]).expand(2, 2, 2))
    found = blend_report.passages(made, sounds, CLOCK, item=1)
    assert [(each.input, each.target) for each in found] == [(each.input, each.target) for each in passages()]


def test_a_pair_is_told_passage_by_passage() -> None:
    made, sounds = blended()
    first, second = blend_report.rows("pair-7", passages(), made.strengths[1].tolist())
    assert (first["pair"], first["passage"], second["passage"]) == ("pair-7", 1, 2)
    assert first["copy_target"] == pytest.approx(1, abs=1e-6)
    assert (first["copies"], second["copies"]) == ("target", "")
    assert abs(second["copy_input"]) < 0.5
    assert first["output_rms"] == pytest.approx(sounds[0][0].square().mean().sqrt().item(), rel=1e-5)
    assert second["target_harmony"] == pytest.approx(made.components[1, 1, 4].mean().item(), rel=1e-5)
    assert first["target_tonality"] == pytest.approx(0.4)
    # Input windows [0, .595] and [.8, 1.2] share nothing, target windows [.605, .9075] and [0, .478] neither.
    assert first["window_diversity"] == 1
    # In the first pair, of 40 frames each: 30 of 50 are shared, and 36 of 44.
    whole = blend_report.rows("pair-6", blend_report.passages(made, sounds, CLOCK, item=0), [0, 0])
    assert whole[0]["window_diversity"] == pytest.approx(1 - (30 / 50 + 36 / 44) / 2)


def test_rows_can_be_read_again(tmp_path: Path) -> None:
    found = blend_report.rows("a", passages(), [0.3, 0.4])
    for _ in range(2):  # the second time replaces the first
        blend_report.write_rows(tmp_path / "windows.csv", found)
    with (tmp_path / "windows.csv").open(newline="") as file:
        again = list(csv.DictReader(file))
    assert [{name: str(value) for name, value in row.items()} for row in found] == again
    assert [path.name for path in tmp_path.iterdir()] == ["windows.csv"]


def test_means_are_those_of_the_columns() -> None:
    found = blend_report.rows("a", passages(), [0.3, 0.4])
    means = blend_report.means(found)
    assert means["copies"] == 0.5
    assert means["copy_target"] == pytest.approx((found[0]["copy_target"] + found[1]["copy_target"]) / 2)
    assert "passage" not in means
    assert blend_report.means([]) == {}


def test_sounds_and_pictures_are_written(written: Path) -> None:
    made = passages()
    sounds = {f"pair-7-{number}{ending}.wav" for number in (1, 2) for ending in ("", "-input", "-target")}
    assert {path.name for path in written.iterdir()} == sounds | {"pair-7-1.png", "pair-7-2.png"}
    expected = {"": made[1].output, "-input": made[1].input_window, "-target": made[1].target_window}
    for ending, samples in expected.items():
        heard, rate = soundfile.read(written / f"pair-7-2{ending}.wav", dtype="float32")
        np.testing.assert_array_equal(heard, samples[0])
        assert rate == 2000


def coloured(shown: np.ndarray, colour: str) -> np.ndarray:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return np.abs(shown - wanted).max(axis=2) <= 2


def test_a_picture_shows_where_the_windows_lie(written: Path) -> None:
    for number, span in ((1, (0.0, 0.595)), (2, (0.8, 1.2))):
        shown = pixels(written / f"pair-7-{number}.png")[:220]  # where the input's whole clip is
        grey = np.flatnonzero(coloured(shown, "#9db4c8").any(axis=0))
        blue = np.flatnonzero(coloured(shown, picture.INPUT).any(axis=0))
        whole = min(grey[0], blue[0]), max(grey[-1], blue[-1])
        seconds = (blue[[0, -1]] - whole[0]) / (whole[1] - whole[0]) * 1.2
        np.testing.assert_allclose(seconds, span, atol=0.03)


def test_a_picture_has_all_six_weights(written: Path) -> None:
    bottom = pixels(written / "pair-7-1.png")[-260:]
    for shade in picture.SHADES:
        assert coloured(bottom, shade).sum() > 3000, shade


def test_silence_can_be_drawn(tmp_path: Path) -> None:
    silence = np.zeros((1, 800), np.float32)
    span = Span(0.0, 0.4, 1.0)
    made = [Passage(silence, silence, silence, span, span, np.full((6, FRAMES), 1 / 6), 2000)]
    blend_report.write(tmp_path, "quiet", (np.zeros((1, 2400), np.float32),) * 2, made)
    assert pixels(tmp_path / "quiet-1.png").std() > 10
    (row,) = blend_report.rows("quiet", made, [0.0, 0.0])
    assert (row["copies"], row["output_rms"]) == ("", 0)
