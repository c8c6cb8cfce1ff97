"""Resynthesis: what a codec keeps of unseen synthetic music, and of noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemiola.codec.model import EncodecModel
from hemiola.synth.score import Truth, truth_of
from hemiola.synth.seeds import split_seed
from hemiola.timebase import Seconds, Timebase
from hemiola.train import opus
from hemiola.train.evaluate import JUDGEMENTS, Asked, Progress, true_music
from hemiola.train.listening import Sound, listen
from hemiola.train.losses import multi_scale_mel

Array = NDArray[Any]

ONSET_TOLERANCE_SECONDS = 0.05
_CHORD_SECONDS = 0.03  # notes that begin within this are one onset
_FAINT = 0.01  # of the loudest frame: chroma of fainter frames is that of noise
_MEL_WINDOWS = (64, 128, 256, 512, 1024)  # samples, those that EnCodec is trained with
_NOISE_RMS = 0.13
_TREBLE_HZ = 4000


@dataclass(frozen=True)
class Kept:
    """What is left of one piece. F1 scores of onsets are at 50 ms; SI-SDR and what `treble_db` says are in dB.

    `codec_onsets` holds the resynthesis against the truth, `true_onsets` the original, `same_onsets` the resynthesis
    against what is heard in the original. The last five say whether the resynthesis is still heard as it should be.
    """

    seed: int
    chroma_correlation: float
    codec_onsets: float
    true_onsets: float
    same_onsets: float
    si_sdr_db: float
    mel_distance: float
    treble_db: float
    tempo_within_4_percent: bool
    drums: bool
    key_and_mode: bool
    mode: bool
    instrument: bool


@dataclass(frozen=True)
class Resynthesis:
    """Means over the pieces, each piece, chance where it has a meaning, and the same codec on white noise.

    `opus` holds mean kilobits a second, SI-SDR and mel distance of Opus on the same pieces; None where it is missing.
    """

    means: dict[str, float]
    chance: dict[str, float | None]
    noise: dict[str, float]
    opus: dict[str, float] | None
    kilobits_a_second: float
    pieces: tuple[Kept, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Back:
    """A piece and what came back of it: audio, chromagrams and onsets of both, and the piece's truth."""

    seed: int
    truth: Truth
    audio: tuple[Array, Array]
    chroma: tuple[Array, Array]
    onsets: tuple[Array, Array]

    @classmethod
    def of(cls, codec: EncodecModel, seed: int, seconds: Seconds) -> _Back:
        score, audio = true_music(seed, seconds, codec.sampling_rate, codec.channels)
        audios = audio, codec.decode(codec.encode(audio))
        first, second = (Sound.of(each, codec.sampling_rate) for each in audios)
        chroma = first.chromagram(), second.chromagram()
        return cls(seed, truth_of(score), audios, chroma, (first.onset_seconds(), second.onset_seconds()))


def measure(codec: EncodecModel, pieces: int, seconds: Seconds, *, progress: Progress | None = None) -> Resynthesis:
    """Encode and decode the first `pieces` pieces of the test split and listen to what comes back.

    Chance holds every resynthesis against the other pieces: a codec that forgets what it was given reaches that.
    """
    backs, kept = [], []
    for index in range(pieces):
        backs.append(_Back.of(codec, split_seed("test", index), seconds))
        kept.append(_compared(backs[-1], codec.sampling_rate))
        if progress:
            progress(index + 1, pieces)
    originals, others = ([each.chroma[place] for each in backs] for place in (0, 1))
    truths = [begun(each.truth) for each in backs]
    chance = {
        "chroma_correlation": _across(chroma_correlation, originals, others),
        "codec_onsets": _across(onset_f1, [each.onsets[1] for each in backs], truths),
    }
    names = [name for name in Kept.__dataclass_fields__ if name != "seed"]
    means = {name: float(np.mean([getattr(each, name) for each in kept])) for name in names}
    yardstick = _opus([each.audio[0] for each in backs], codec.sampling_rate) if opus.available() else None
    return Resynthesis(means, chance, _noise(codec, seconds), yardstick, kilobits_a_second(codec), tuple(kept))


def _compared(back: _Back, sample_rate: int) -> Kept:
    truth = begun(back.truth)
    heard = listen(back.audio[1], sample_rate)
    piece = back.truth
    wanted = Asked(round(piece.tempo_bpm), piece.drums, piece.key, piece.mode, piece.lead)
    still = ("tempo_within_4_percent", "drums", "key_and_mode", "mode", "instrument")
    return Kept(
        seed=back.seed,
        chroma_correlation=chroma_correlation(*back.chroma),
        codec_onsets=onset_f1(back.onsets[1], truth),
        true_onsets=onset_f1(back.onsets[0], truth),
        same_onsets=onset_f1(back.onsets[1], back.onsets[0]),
        si_sdr_db=si_sdr_db(back.audio[1], back.audio[0]),
        mel_distance=mel_distance(back.audio[1], back.audio[0], sample_rate),
        treble_db=treble_db(back.audio[1], back.audio[0], sample_rate),
        **{name: JUDGEMENTS[name].right(wanted, heard) for name in still},
    )


def chroma_correlation(original: Array, other: Array) -> float:
    """Mean over frames of the Pearson correlation of two chromagrams [frames, 12].

    Frame by frame, so that every moment's harmony counts alike and loudness does not; frames of the original more
    than 40 dB under its loudest are left out, for in them there is nothing to keep. 1 is perfect, chance is not 0.
    """
    loud = original.sum(axis=1) > _FAINT * original.sum(axis=1).max(initial=0.0)
    a, b = (each[loud] - each[loud].mean(axis=1, keepdims=True) for each in (original, other))
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a * b).sum(axis=1) / np.maximum(sizes, 1e-12)
    return float(products.mean()) if len(products) else 0.0


def begun(truth: Truth) -> Array:
    """The moments, in seconds, where notes or strokes begin; those within 30 ms are one."""
    moments = np.sort(np.concatenate([truth.onset_seconds, *truth.drum_onset_seconds.values()]))
    onsets: list[float] = []
    for moment in moments:
        if not onsets or moment - onsets[-1] > _CHORD_SECONDS:
            onsets.append(float(moment))
    return np.array(onsets)


def onset_f1(heard: Array, truth: Array) -> float:
    """Harmonic mean of precision and recall of ascending moments in seconds, each used once, within 50 ms."""
    if not len(heard) or not len(truth):
        return float(len(heard) == len(truth))
    matched = place = 0
    for moment in truth:
        # Both are ascending, so the first one that is near is the best one to give away.
        while place < len(heard) and heard[place] < moment - ONSET_TOLERANCE_SECONDS:
            place += 1
        if place < len(heard) and heard[place] <= moment + ONSET_TOLERANCE_SECONDS:
            matched, place = matched + 1, place + 1
    return 2 * matched / (len(heard) + len(truth))


def si_sdr_db(output: Array, reference: Array) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of [channels, samples] (Le Roux et al., 2019)."""
    output, reference = (each - each.mean(axis=-1, keepdims=True, dtype=np.float64) for each in (output, reference))
    scale = (output * reference).sum(axis=-1, keepdims=True) / ((reference**2).sum(axis=-1, keepdims=True) + 1e-8)
    target = scale * reference
    ratio = (target**2).sum(axis=-1) / (((output - target) ** 2).sum(axis=-1) + 1e-8)
    return float(np.mean(10 * np.log10(ratio + 1e-8)))


def mel_distance(output: Array, reference: Array, sample_rate: int) -> float:
    """The multi-scale mel loss that codecs are trained with, of [channels, samples]."""
    tensors = [torch.from_numpy(np.ascontiguousarray(each, np.float32))[None] for each in (output, reference)]
    with torch.no_grad():
        return float(multi_scale_mel(tensors[0], tensors[1], sample_rate, _MEL_WINDOWS))


def treble_db(output: Array, reference: Array, sample_rate: int) -> float:
    """How loud [channels, samples] is from 4 kHz up, against the reference: below 0 dB it is duller.

    What lies 60 dB below the whole reference is not counted: with no treble on either side it is 0 dB.
    """
    output_power, power = (np.abs(np.fft.rfft(each, axis=-1)) ** 2 for each in (output, reference))
    treble = np.fft.rfftfreq(reference.shape[-1], 1 / sample_rate) >= _TREBLE_HZ
    unheard = 1e-6 * power.sum() + 1e-12
    return float(10 * np.log10((output_power[:, treble].sum() + unheard) / (power[:, treble].sum() + unheard)))


def kilobits_a_second(codec: EncodecModel) -> float:
    """Bits of all codebooks' indices, a thousand a second."""
    bits = codec.config.codebooks_for(None) * np.log2(codec.config.codebook_size)
    return float(bits * codec.timebase.frame_rate / 1000)


def _noise(codec: EncodecModel, seconds: Seconds) -> dict[str, float]:
    samples = codec.timebase.samples(seconds)
    noise = np.random.Generator(np.random.PCG64(0)).standard_normal((codec.channels, samples))
    noise = (_NOISE_RMS * noise).astype(np.float32)
    back = codec.decode(codec.encode(noise))
    return {"si_sdr_db": si_sdr_db(back, noise), "mel_distance": mel_distance(back, noise, codec.sampling_rate)}


def _opus(originals: Sequence[Array], sample_rate: int) -> dict[str, float]:
    clock = Timebase(sample_rate, 1)
    rows = []
    for audio in originals:
        back, kilobits = opus.through_opus(audio, sample_rate)
        rate = kilobits / float(clock.seconds(audio.shape[-1]))
        rows.append((rate, si_sdr_db(back, audio), mel_distance(back, audio, sample_rate)))
    return dict(zip(("kilobits_a_second", "si_sdr_db", "mel_distance"), np.mean(rows, axis=0).tolist()))


def _across(score: Any, ours: Sequence[Array], theirs: Sequence[Array]) -> float | None:
    """The mean score of every one of ours with every one of theirs but its own."""
    scores = [score(a, b) for i, a in enumerate(ours) for j, b in enumerate(theirs) if i != j]
    return float(np.mean(scores)) if scores else None
