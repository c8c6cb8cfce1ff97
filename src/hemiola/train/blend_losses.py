"""The blend's losses: what a composed passage owes to the two recordings, to the listener and to itself.

Each loss is a pure function of a `Scene`, a mean over its N passages, and stands in BLEND_LOSSES under its own name.
Shapes: N passages = B pairs of clips times P passages a pair, D latent width, F frames, S samples.
Where a loss looks at both sources it is the mean over the two, so its weight means the same as that of a loss of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hemiola.train.losses import hinge_generator, magnitude, mel_bands, mel_distance, root, waveform_l1, weighted

DEFAULT_WEIGHTS = {
    "rms_input": 0.3,
    "rms_target": 0.3,
    "stft": 0.01,
    "mel": 0.01,
    "correlation": 0.5,
    "novelty": 0.1,
    "balance": 0.1,
    "ratio_diversity": 0.1,
    "reconstruction": 0.05,
    "spectral_outlier": 0.01,
    "adversarial": 0.1,
    "latent_match": 1.0,
}
STFT_WINDOWS = (512, 1024, 2048)  # samples, hop a quarter
MEL_WINDOW, MELS = 1024, 80
FLOOR = 1e-3  # magnitude of -60 dB: what is below counts as silence, so that no loss is about its noise
FAINT = 1e-2  # of the latents' mean power: a fainter frame has no direction
ENVELOPE_SAMPLES = 1024  # a segment of the peak envelope; 250 of them in a whole passage of the published codec
TEMPO_SPREAD = 0.05  # natural logarithm

Three = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Scene:
    """What the losses look at, all at one clock: frame and sample j of all three are the same moment.

    output, input_window, target_window: latents [N, D, F]; the windows are the sources', cut and stretched.
    output_audio, input_audio, target_audio: these decoded [N, 1, S], or the same crop of each.
    components: weights of the six components [N, 6, F], in each frame of sum 1.
    input_ratios, target_ratios: source frames that are read for one frame [B, P].
    latent_scale: mean square of the batch's latents [], a constant.
    logits: what the discriminator says of the output [N]; None where nobody judges.
    choice_weights, choice_distances: of a shortlist [B, P, S] how readily each choice of windows would have been made,
    and how unlike its two windows are; None where nothing was drawn.
    Gradients reach whatever asks for one.
    """

    output: Tensor
    input_window: Tensor
    target_window: Tensor
    output_audio: Tensor
    input_audio: Tensor
    target_audio: Tensor
    components: Tensor
    input_ratios: Tensor
    target_ratios: Tensor
    latent_scale: Tensor
    logits: Tensor | None
    sample_rate: int
    choice_weights: Tensor | None = None
    choice_distances: Tensor | None = None

    @property
    def audio(self) -> Three:
        """Output, input and target [N, 1, S]."""
        return self.output_audio, self.input_audio, self.target_audio

    @property
    def windows(self) -> tuple[Tensor, Tensor]:
        """Latents of both sources [N, D, F]."""
        return self.input_window, self.target_window

    def magnitudes(self, n_fft: int) -> Three:
        """Magnitude spectrograms of `audio` [N, 1, bins, frames], hop a quarter of the window; computed once."""
        if n_fft not in self._magnitudes:
            output, input_, target = (magnitude(each, n_fft, n_fft // 4) for each in self.audio)
            self._magnitudes[n_fft] = output, input_, target
        return self._magnitudes[n_fft]

    @cached_property
    def mels(self) -> Three:
        """Mel magnitudes of `audio` [N, 1, MELS, frames]."""
        output, input_, target = (mel_bands(each, self.sample_rate, MELS) for each in self.magnitudes(MEL_WINDOW))
        return output, input_, target

    @cached_property
    def _magnitudes(self) -> dict[int, Three]:
        return {}


def rms_input(scene: Scene) -> Tensor:
    """RMS of the difference to the input: sqrt(mean over S of (output - input)^2), waveforms [N, 1, S]."""
    return _rms(scene.output_audio - scene.input_audio)


def rms_target(scene: Scene) -> Tensor:
    """RMS of the difference to the target: sqrt(mean over S of (output - target)^2), waveforms [N, 1, S]."""
    return _rms(scene.output_audio - scene.target_audio)


def stft(scene: Scene) -> Tensor:
    """Spectral convergence plus log magnitude, a mean over STFT_WINDOWS and both sources (Yamamoto et al., 2020).

    Of magnitudes O and R [N, 1, bins, frames]: rms(O - R) / (rms(R) + FLOOR) + mean |log(O + FLOOR) - log(R + FLOOR)|.
    The floor in the denominator keeps a silent source from outweighing all others.
    """
    terms = []
    for n_fft in STFT_WINDOWS:
        output, *sources = scene.magnitudes(n_fft)
        log_output = torch.log(output + FLOOR)
        for source in sources:
            size = source.square().mean((-2, -1)).sqrt()
            convergence = root((output - source).square().mean((-2, -1))) / (size + FLOOR)
            terms.append(convergence.mean() + (log_output - torch.log(source + FLOOR)).abs().mean())
    return torch.stack(terms).mean()


def mel(scene: Scene) -> Tensor:
    """Distance of mel magnitudes [N, 1, MELS, frames] to both sources: L1 plus RMS over bands of the log difference."""
    output, *sources = scene.mels
    return _mean(mel_distance(output, source, FLOOR) for source in sources)


def correlation(scene: Scene) -> Tensor:
    """(1 - r)^2 with Pearson's r of peak envelopes, the largest |sample| of each ENVELOPE_SAMPLES, to both sources.

    r = (cov(a, b) + FLOOR^2) / sqrt((var(a) + FLOOR^2) (var(b) + FLOOR^2)). As the same is added above and below,
    |r| is at most 1 and two envelopes that do not move at all agree: r is 1 for them.
    """
    output, *sources = (_envelope(each) for each in scene.audio)
    return _mean((1 - _pearson(output, source)).square().mean() for source in sources)


def novelty(scene: Scene) -> Tensor:
    """Mean over frames of |cos| between output and source latents [N, D, F], to both sources: do not just copy.

    The absolute value is each frame's: of the mean, frames that point along and against would cancel.
    """
    floor = FAINT * scene.latent_scale.clamp(min=FLOOR) * scene.output.shape[1]
    return _mean(_cosine(scene.output, window, floor).abs().mean() for window in scene.windows)


def balance(scene: Scene) -> Tensor:
    """How unevenly the components [N, C, F] are used over a passage: C / (C - 1) sum_c (mean_F w_c - 1 / C)^2.

    0 when all are used alike, 1 when one does everything. Single frames are free.
    """
    count = scene.components.shape[1]
    uneven = (scene.components.mean(-1) - 1 / count).square().sum(1)
    return uneven.mean() * count / (count - 1)


def ratio_diversity(scene: Scene) -> Tensor:
    """-tanh(var / TEMPO_SPREAD^2) of the tempo log(input_ratio target_ratio) / 2 over a pair's passages [B, P].

    The quotient of the two ratios is left alone, for the music decides it: it is what makes both sources fit. The bound
    is what ends the reward: a spread of 5 % has three quarters of it, and past 10 % there is nothing more to gain.
    Where all tempi are the same, no direction is better than another, and the gradient is 0.
    """
    tempo = (scene.input_ratios * scene.target_ratios).log() / 2
    return -torch.tanh(tempo.var(-1, correction=0) / TEMPO_SPREAD**2).mean()


def reconstruction(scene: Scene) -> Tensor:
    """Mean |output - source| of waveforms [N, 1, S], decoded output against decoded window, to both sources."""
    return _mean(waveform_l1(scene.output_audio, source) for source in scene.audio[1:])


def spectral_outlier(scene: Scene) -> Tensor:
    """How far mel bands [N, 1, MELS, frames] rise above the loudest that either source ever is in that band.

    mean relu(log(O + FLOOR) - max over frames and both sources of log(R + FLOOR))^2: a whistle or a hum that neither
    recording has. Where in the passage something sounds is free.
    """
    output, *sources = scene.mels
    loudest = torch.stack([source.amax(-1, keepdim=True) for source in sources]).amax(0)
    return F.relu(torch.log(output + FLOOR) - torch.log(loudest + FLOOR)).square().mean()


def adversarial(scene: Scene) -> Tensor:
    """Hinge loss mean relu(1 - logit) of what the discriminator says of each output [N] (Lim and Ye, 2017).

    Raises ValueError for a scene without logits.
    """
    if scene.logits is None:
        raise ValueError("nobody judged this scene: give it logits, or the adversarial loss a weight of 0")
    return hinge_generator([scene.logits])


def latent_match(scene: Scene) -> Tensor:
    """Mean (output - window)^2 of latents [N, D, F] over their mean square, to both sources; and the choice's own part.

    No decoder lies in between. Of the windows that might have been chosen [B, P, S] the expected distance
    sum_s weight_s distance_s tells the selector which to prefer: it has a gradient and, less itself, no value.
    """
    scale = scene.latent_scale.clamp(min=FLOOR)
    value = _mean((scene.output - window).square().mean() / scale for window in scene.windows)
    if scene.choice_weights is None or scene.choice_distances is None:
        return value
    expected = (scene.choice_weights * scene.choice_distances.detach()).sum(-1).mean()
    return value + expected - expected.detach()


BLEND_LOSSES: dict[str, Callable[[Scene], Tensor]] = {
    "rms_input": rms_input,
    "rms_target": rms_target,
    "stft": stft,
    "mel": mel,
    "correlation": correlation,
    "novelty": novelty,
    "balance": balance,
    "ratio_diversity": ratio_diversity,
    "reconstruction": reconstruction,
    "spectral_outlier": spectral_outlier,
    "adversarial": adversarial,
    "latent_match": latent_match,
}


def terms(scene: Scene, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Every loss whose weight is not 0, by name and not yet weighted; ValueError for a name that is unknown."""
    return weighted({name: partial(loss, scene) for name, loss in BLEND_LOSSES.items()}, weights)


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def _rms(difference: Tensor) -> Tensor:
    return root(difference.square().mean((-2, -1))).mean()


def _envelope(audio: Tensor) -> Tensor:
    """[N, 1, S] -> each segment's largest |sample| [N, segments]; the last segment may be shorter."""
    return F.max_pool1d(audio.abs(), ENVELOPE_SAMPLES, ceil_mode=True).flatten(1)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation [N] of rows [N, n], each variance with FLOOR^2 that both have in common."""
    a, b = (each - each.mean(-1, keepdim=True) for each in (a, b))
    common = FLOOR**2
    shared = (a * b).mean(-1) + common
    return shared / ((a.square().mean(-1) + common) * (b.square().mean(-1) + common)).sqrt()


def _cosine(a: Tensor, b: Tensor, floor: Tensor) -> Tensor:
    """Cosine [N, F] of frames [N, D, F]; towards 0 for a frame whose power is below `floor`."""
    return (a * b).sum(1) / ((a.square().sum(1) + floor) * (b.square().sum(1) + floor)).sqrt()
