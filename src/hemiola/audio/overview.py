"""A sound of any length seen at a glance: envelope, mel spectrogram and chroma in a thousand columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from hemiola.audio.io import Reel
from hemiola.timebase import Timebase

COLUMNS = 1000
MELS = 96
MEL_SECONDS = Fraction(1, 20)  # of the window behind the mel spectrogram, at least: short enough to show an onset
CHROMA_SECONDS = Fraction(1, 4)  # long enough to tell two low notes apart
LOWEST_HZ = 30.0  # of the mel spectrogram
HIGHEST_TONE_HZ = 4000.0  # of the chroma: what lies above is overtones
PITCHES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")

_A4_HZ, _A = 440.0, PITCHES.index("A")
_FRAMES_AT_ONCE = 32
_BLOCK = 1 << 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Overview:
    """What there is to see; a column is `column_samples` long, and the last may be shorter.

    lows, highs: float32 [channels, columns]. energies: sums of squares, float64 [channels, columns]. mel, chroma: power
    [MELS, columns] and, of C to B, [12, columns], in the mean of all channels.
    """

    sample_rate: int
    length: int
    column_samples: int
    lows: NDArray[np.float32]
    highs: NDArray[np.float32]
    energies: NDArray[np.float64]
    mel: NDArray[np.float32]
    chroma: NDArray[np.float32]

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return self.lows.shape[0]

    @property
    def seconds(self) -> Fraction:
        """The duration, exact."""
        return Timebase(self.sample_rate, 1).seconds(self.length)

    @property
    def peak(self) -> float:
        """The largest absolute value."""
        return float(max(self.highs.max(), -self.lows.min()))

    @property
    def rms(self) -> float:
        """Of everything, on all channels."""
        return float(np.sqrt(self.energies.sum() / (self.length * self.channels)))

    @property
    def envelope(self) -> NDArray[np.float64]:
        """RMS of each column, on all channels, [columns]."""
        starts = np.arange(self.energies.shape[1]) * self.column_samples
        lengths = np.minimum(self.length - starts, self.column_samples)
        return np.sqrt(self.energies.mean(axis=0) / lengths)


def survey(reel: Reel, progress: Progress | None = None) -> Overview:
    """Read a sound once, in memory that does not depend on its length; `progress` counts samples.

    Raises AudioError for a file that is damaged further on.
    """

    def told(done: int) -> None:
        if progress:
            progress(min(done, reel.length), reel.length)

    grid = _Grid.over(max(1, reel.length), reel.sample_rate)
    size = grid.column_samples * max(1, _BLOCK // grid.column_samples)
    return _overview(reel.blocks(size), grid, reel.sample_rate, told)


def glance(samples: NDArray[np.float32], sample_rate: int) -> Overview:
    """The same of samples [channels, samples] that are in memory already; of one at least."""
    return _overview([samples], _Grid.over(samples.shape[1], sample_rate), sample_rate, lambda done: None)


def mel_of(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Hz -> mel on Slaney's scale: straight up to 1 kHz, logarithmic above."""
    hz = np.asarray(hz, np.float64)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def hz_of(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """`mel_of` backwards."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


def mel_bands(sample_rate: int) -> NDArray[np.float64]:
    """Hz at which the bands begin, peak and end: band i has [i], [i + 1] and [i + 2] of these MELS + 2."""
    return hz_of(np.linspace(mel_of(min(LOWEST_HZ, sample_rate / 8)), mel_of(sample_rate / 2), MELS + 2))


def mel_filters(sample_rate: int, window: int) -> NDArray[np.float32]:
    """Triangles of height 1 [MELS, bins of a window]."""
    bins = np.arange(window // 2 + 1) * (sample_rate / window)
    low, peak, high = (mel_bands(sample_rate)[first : first + MELS, None] for first in range(3))
    return np.clip(np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)), 0, None).astype(np.float32)


def chroma_filters(sample_rate: int, window: int) -> NDArray[np.float32]:
    """Which bins belong to which pitch class [12, bins of a window]: those tones that the window can tell apart."""
    step = sample_rate / window
    bins = np.arange(window // 2 + 1) * step
    lowest = 1.5 * step / (2 ** (1 / 12) - 1)  # a semitone is one and a half bins wide
    heard = (bins >= lowest) & (bins <= HIGHEST_TONE_HZ)
    semitones = np.rint(12 * np.log2(np.maximum(bins, step) / _A4_HZ)).astype(int)
    return (((semitones + _A) % 12 == np.arange(12)[:, None]) & heard).astype(np.float32)


@dataclass(frozen=True)
class _Grid:
    """Where columns and frames lie: a frame every `hop` samples, and the mean of `frames` of them in a column."""

    hop: int
    frames: int

    @classmethod
    def over(cls, length: int, sample_rate: int) -> _Grid:
        longest_hop = _window(MEL_SECONDS, sample_rate) // 2
        frames = -(-length // (COLUMNS * longest_hop))
        return cls(-(-length // (COLUMNS * frames)), frames)

    @property
    def column_samples(self) -> int:
        return self.hop * self.frames


def _overview(
    blocks: Iterable[NDArray[np.float32]], grid: _Grid, sample_rate: int, told: Callable[[int], None]
) -> Overview:
    """Of blocks of whole columns, the last of which may be shorter; `told` hears how many samples are done."""
    spectra, length = _Spectra(grid, sample_rate), 0
    lows, highs, energies = [], [], []
    for block in blocks:
        starts = np.arange(0, block.shape[1], grid.column_samples)
        lows.append(np.minimum.reduceat(block, starts, axis=1))
        highs.append(np.maximum.reduceat(block, starts, axis=1))
        energies.append(np.add.reduceat(np.square(block, dtype=np.float64), starts, axis=1))
        length += block.shape[1]
        spectra.feed(block.mean(axis=0))
        told(length)
    columns = spectra.end(length)
    return Overview(
        sample_rate,
        length,
        grid.column_samples,
        np.concatenate(lows, axis=1),
        np.concatenate(highs, axis=1),
        np.concatenate(energies, axis=1),
        columns[:MELS],
        columns[MELS:],
    )


class _Spectra:
    """Columns [MELS + 12, n], mel over chroma, of a mono sound that comes in blocks."""

    def __init__(self, grid: _Grid, sample_rate: int) -> None:
        self._grid = grid
        self._long, self._short = (_window(seconds, sample_rate) for seconds in (CHROMA_SECONDS, MEL_SECONDS))
        self._mel = mel_filters(sample_rate, self._short)
        self._chroma = chroma_filters(sample_rate, self._long)
        # A frame is centred in its stretch of `hop` samples; before the beginning there is silence.
        self._samples = np.zeros(self._long // 2 - grid.hop // 2, np.float32)
        self._frames = np.zeros((MELS + len(PITCHES), 0), np.float32)  # that do not fill a column yet
        self._columns: list[NDArray[np.float32]] = []
        self._done = 0

    def feed(self, mono: NDArray[np.float32]) -> None:
        """Take in samples, and make the columns that can be known with them."""
        hop = self._grid.hop
        self._samples = np.concatenate([self._samples, mono])
        while (ready := (self._samples.size - self._long) // hop + 1) > 0:
            ready = min(ready, _FRAMES_AT_ONCE)
            views = np.lib.stride_tricks.sliding_window_view(self._samples, self._long)[::hop][:ready]
            self._collect(self._seen(views))
            self._samples = self._samples[ready * hop :]
            self._done += ready

    def end(self, length: int) -> NDArray[np.float32]:
        """All columns of a sound that was so many samples long; behind it there is silence."""
        missing = -(-length // self._grid.hop) - self._done
        if missing > 0:
            self.feed(np.zeros((missing - 1) * self._grid.hop + self._long - self._samples.size, np.float32))
        rest = [self._frames.mean(axis=1, keepdims=True)] if self._frames.size else []
        return np.concatenate([*self._columns, *rest], axis=1)

    def _seen(self, views: NDArray[np.float32]) -> NDArray[np.float32]:
        middle = slice((self._long - self._short) // 2, (self._long + self._short) // 2)
        return np.concatenate([self._mel @ _power(views[:, middle]).T, self._chroma @ _power(views).T])

    def _collect(self, frames: NDArray[np.float32]) -> None:
        frames = np.concatenate([self._frames, frames], axis=1)
        whole = frames.shape[1] - frames.shape[1] % self._grid.frames
        self._columns.append(frames[:, :whole].reshape(len(frames), -1, self._grid.frames).mean(axis=2))
        self._frames = frames[:, whole:]


def _power(views: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, window] -> [n, bins] under a Hann window; a sine at full scale has 1."""
    hann = np.hanning(views.shape[1] + 1)[:-1].astype(np.float32)
    return np.square(np.abs(np.fft.rfft(views * hann, axis=1)) * (2 / hann.sum())).astype(np.float32)


def _window(seconds: Fraction, sample_rate: int) -> int:
    """The power of two next above so many seconds; at least 64."""
    return 1 << max(6, Timebase(sample_rate, 1).samples(seconds).bit_length())
