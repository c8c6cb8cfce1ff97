"""The lead instrument, heard: in the test split, through a codec's losses, at any rate and loudness."""

from __future__ import annotations

import numpy as np
import pytest

from hemiola.synth.compose import compose
from hemiola.synth.instruments import GUESTS, LEADS
from hemiola.synth.score import Brief
from hemiola.synth.seeds import split_seed
from hemiola.train import timbre
from hemiola.train.listening import Sound, listen

RATE = 32000
NAMES = (*LEADS, *GUESTS)


def sound(index: int, rate: int = RATE, **wanted: object) -> Sound:
    brief = Brief(lead=NAMES[index % len(NAMES)], **wanted)  # type: ignore[arg-type]
    return Sound.of(compose(split_seed("test", index), sample_rate=rate, brief=brief).audio, rate)


def test_every_instrument_has_a_probability_and_they_sum_to_one() -> None:
    heard = sound(0).lead_probabilities()
    assert tuple(heard) == NAMES
    assert sum(heard.values()) == pytest.approx(1)
    assert min(heard.values()) >= 0


def test_leads_of_pieces_that_were_not_fitted_are_heard() -> None:
    names = [max(heard, key=heard.__getitem__) for heard in (sound(index).lead_probabilities() for index in range(22))]
    assert np.mean([name == NAMES[index % len(NAMES)] for index, name in enumerate(names)]) >= 0.7


@pytest.mark.parametrize("rate", [24000, 48000])
def test_features_are_much_the_same_at_other_rates(rate: int) -> None:
    here, there = sound(3).timbre(), sound(3, rate).timbre()
    other = sound(5).timbre()
    assert here.shape == there.shape
    assert np.linalg.norm(here - there) < 0.35 * np.linalg.norm(here - other)


def test_loudness_does_not_matter_and_silence_has_no_lead() -> None:
    audio = compose(split_seed("test", 4)).audio
    assert listen(0.05 * audio, RATE).lead == listen(audio, RATE).lead
    nothing = listen(np.zeros((1, RATE)), RATE)
    assert nothing.lead is None and nothing.lead_probability == 0


def test_levels_that_never_move_have_no_rises_or_falls() -> None:
    steady = timbre.features(np.full((50, 36), 0.1), np.full((9, 4097), 0.01), RATE)
    means, spreads = steady[:36], steady[36:72]
    np.testing.assert_allclose(means, np.log(0.01), rtol=1e-4)
    np.testing.assert_allclose(spreads, 0, atol=1e-6)
    np.testing.assert_allclose(steady[144:], 0, atol=1e-6)


def test_a_step_up_is_a_rise_of_its_size() -> None:
    bands = np.full((100, 36), 0.01)
    bands[50:, 7] = 1.0
    found = timbre.features(bands, np.full((9, 4097), 0.01), RATE)
    rises = found[144:180]
    # Two moments of the 98 pairs that are two apart straddle the step.
    assert rises[7] == pytest.approx(2 / 98 * 2 * np.log(100), rel=1e-2)
    assert np.delete(rises, 7).max() < 1e-6


def test_what_a_codec_gave_back_has_a_rule_of_its_own() -> None:
    weights = np.stack([np.eye(2), -np.eye(2)])
    rule = timbre.Fitted(("a", "b"), weights, np.array([[0.0, 1], [2, 0]]), np.array([1.0, 0]), np.array([-5.0]))
    np.testing.assert_array_equal(rule.scores(np.array([4.0, 7])), [4, 8])
    np.testing.assert_array_equal(rule.scores(np.array([6.0, 7])), [-4, -7])


@pytest.mark.slow
def test_the_ears_hear_leads_through_the_bundled_codec() -> None:
    from hemiola.codec.model import EncodecModel

    codec = EncodecModel.from_pretrained("sketch")
    right = []
    for index in range(0, 66, 2):
        truth = sound(index)
        back = codec.decode(codec.encode(truth.samples[None]))
        heard = Sound.of(back, RATE).lead_probabilities()
        right.append(max(heard, key=heard.__getitem__) == NAMES[index % len(NAMES)])
    assert np.mean(right) >= 0.75
