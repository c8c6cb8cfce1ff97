"""The selector: which windows of two clips to take, and at what tempo, learned from what the losses say of the result.

Every moment of a clip becomes a few numbers; windows are alike whose moments are, all along. All cells of the lattice
are scored at once: a window's score is a sum along a diagonal of the matrix that compares all moments with all moments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hemiola.blend.config import BlendConfig
from hemiola.blend.lattice import APART_FRAMES, COLUMN_FRAMES, RATIO_STEP, Lattice, Layer
from hemiola.blend.layers_torch import silence
from hemiola.blend.windows_torch import cut_and_stretch, placed, room

SMOOTHING_FRAMES = 16
FAINTEST = 0.05  # power below which a moment counts as silent
SHORTLIST = 16  # cells a window that are weighed against each other in training
GAIN_SCALE = 20.0
SHARED_LIMIT = 0.15  # of the logarithm: how far both clips may be read faster or slower together
EPSILON = 1e-6


@dataclass
class Windows:
    """Which windows: starts in frames [B, P], ratios [B, P] in source frames a frame, of the input and the target.

    In training there is an axis more, [B, P, S], of a shortlist whose first is what was chosen. `weights` [B, P, S] are
    the softmax over it: how readily each could have been chosen. `distances` [B, P, S]: how unlike its two windows are.
    """

    input_starts: Tensor
    input_ratios: Tensor
    target_starts: Tensor
    target_ratios: Tensor
    weights: Tensor | None = None
    distances: Tensor | None = None

    @cached_property
    def chosen(self) -> Windows:
        """Only what was chosen, [B, P]."""
        if self.weights is None:
            return self
        return Windows(*(each[..., 0] for each in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Starts and ratios of the input, then of the target."""
        return self.input_starts, self.input_ratios, self.target_starts, self.target_ratios


class CorrelationSelector(nn.Module):
    """Scores all cells of the lattice by learned similarity, and takes the best that lie apart."""

    starts: Tensor
    log_ratios: Tensor
    prior: Tensor

    def __init__(self, config: BlendConfig) -> None:
        super().__init__()
        self.config, self.lattice = config, Lattice(config)
        self.embed = nn.Conv1d(config.latent_dim, config.embedding_dim, 3, padding=1, bias=False)
        nn.init.normal_(self.embed.weight, std=(3 * config.latent_dim) ** -0.5)
        self.gain = nn.Parameter(torch.zeros(()))
        last = silence(nn.Linear(32, config.pairs, bias=False))
        self.shared = nn.Sequential(nn.Linear(4 * config.latent_dim, 32), nn.GELU(), last)
        tables = {"starts": self.lattice.starts, "log_ratios": self.lattice.log_ratios}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table).float(), persistent=False)
        prior = torch.zeros(len(self.lattice))
        prior[self.lattice.spread(config.pairs)] = torch.linspace(0.1, 0.09, config.pairs)
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, input: Tensor, target: Tensor, noise: Tensor | None = None) -> Windows:
        """Normalised latents [B, D, T] of both clips -> windows; with `noise` [B, cells] a draw, with its shortlist."""
        with torch.autocast(input.device.type, enabled=False):
            return self._select(input.float(), target.float(), noise)

    def _select(self, input: Tensor, target: Tensor, noise: Tensor | None) -> Windows:
        # In full precision whatever is around: long sums tell near places apart.
        moments = self._moments(input), self._moments(target)
        with torch.no_grad():
            logits = self._strength * self.scores(*moments) + self.prior
            cells = self._pick(logits, 1) if noise is None else self._pick(logits + noise, SHORTLIST)
        around = self._around(cells)
        found = self._similarity(moments, around)
        windows = self._read(around, found, self._shared_ratios(input, target))
        if noise is None:
            return Windows(*(each[..., 0] for each in windows.parts))
        windows.weights = (self._strength * found[..., 0] + self.prior[cells]).softmax(-1)
        windows.distances = self._distances(input, target, around)
        return windows

    @property
    def _strength(self) -> Tensor:
        return GAIN_SCALE * self.gain

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Gumbel noise [len(seeds), cells]: each row is a function of its seed."""
        rows = [torch.empty(len(self.lattice)).exponential_(generator=torch.Generator().manual_seed(s)) for s in seeds]
        return -torch.stack(rows).log().to(self.prior.device)

    def scores(self, input: Tensor, target: Tensor) -> Tensor:
        """Similarity [-1, 1] of the two windows of every cell, [B, cells], of moments [B, E, T]."""
        return torch.cat([self._layer_scores(input, target, layer) for layer in self.lattice.layers], 1)

    def _moments(self, clip: Tensor) -> Tensor:
        """Latents [B, D, T] -> [B, E, T]: how much of each of E patterns there is at a moment, as the clip goes.

        It is the power of a pattern that counts: latents keep the phase of the waveform, and two performances of one
        passage have hardly anything in common frame by frame.
        """
        return _even(log_power(self.embed(_even(clip))))

    def _layer_scores(self, input: Tensor, target: Tensor, layer: Layer) -> Tensor:
        a, b = _sampled(input, layer.input_frames), _sampled(target, layer.target_frames)
        alike = diagonal_sums(a.mT @ b, self.lattice.window)
        sizes = [F.avg_pool1d(each.square().sum(1), self.lattice.window, 1) for each in (a, b)]
        scale = (sizes[0][:, :, None] * sizes[1][:, None, :] + EPSILON).sqrt() * self.lattice.window
        return (alike / scale).flatten(1)

    @torch.no_grad()
    def _pick(self, logits: Tensor, shortlist: int) -> Tensor:
        """The best cells [B, P, shortlist]: the first of each pair lies apart from those of the pairs before."""
        logits, picked = logits.clone(), []
        for _ in range(self.config.pairs):
            best = logits.topk(min(shortlist, len(self.lattice)), dim=1).indices
            picked.append(best)
            away = (self.starts[:, None, :] - self.starts[:, best[:, 0]][:, :, None]).abs()
            logits.masked_fill_((away < APART_FRAMES).all(0), -torch.inf)
        return torch.stack(picked, 1)

    def _around(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Cells [B, P, S] and their neighbours: middles in frames [2, B, P, S, 7] of both windows, and log ratios.

        First the cell, then one step back and on along the input, the target and the ratio.
        """
        logs = self.log_ratios[cells][..., None]
        reading = torch.stack([torch.exp(logs / 2), torch.exp(-logs / 2)])
        middles = self.starts[:, cells][..., None] + reading * (self._frames - 1) / 2
        steps = torch.zeros(3, 7, device=cells.device)
        for axis in range(3):
            steps[axis, 1 + 2 * axis], steps[axis, 2 + 2 * axis] = -1, 1
        moved = middles + COLUMN_FRAMES * reading * steps[:2, None, None, None, :]
        return moved, logs + RATIO_STEP * steps[2]

    def _similarity(self, moments: tuple[Tensor, Tensor], around: tuple[Tensor, Tensor]) -> Tensor:
        """What `scores` says of windows anywhere, [B, P, S, 7], and differentiable."""
        a, b = self._columns(moments, around)
        return F.cosine_similarity(a.flatten(2), b.flatten(2), dim=-1, eps=EPSILON).view(around[1].shape)

    @torch.no_grad()
    def _distances(self, input: Tensor, target: Tensor, around: tuple[Tensor, Tensor]) -> Tensor:
        """How unlike the latents of two windows are in power, whatever has been learned so far, [B, P, S]."""
        powers = log_power(_even(input)), log_power(_even(target))
        cells = around[0][..., :1], around[1][..., :1]
        a, b = self._columns(powers, cells)
        return (a - b).square().mean((-2, -1)).view(cells[1].shape[:-1])

    def _columns(self, clips: tuple[Tensor, Tensor], around: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Both clips [B, E, T] read where the windows lie, a value a column: [B, windows, E, columns] each."""
        middles, logs = around
        read = []
        for clip, middle, sign in zip(clips, middles, (1, -1)):
            ratio = torch.exp(sign * logs / 2).expand_as(middle)
            first = middle - ratio * COLUMN_FRAMES * (self.lattice.window - 1) / 2
            steps = COLUMN_FRAMES * ratio.flatten(1)
            read.append(cut_and_stretch(clip, first.flatten(1), steps, self.lattice.window))
        return read

    def _read(self, around: tuple[Tensor, Tensor], found: Tensor, shared: Tensor) -> Windows:
        """Starts and ratios [B, P, S], moved between the cells to where the similarity would be the highest."""
        middles, logs = (each[..., 0] for each in around)
        beside = found[..., 1:].unflatten(-1, (3, 2))
        # What a small step does to the losses says nothing about how far to trust the scores.
        trust = torch.tanh(self._strength.detach().abs())
        moved = trust * _peak(beside[..., 0], found[..., :1], beside[..., 1])
        slanted = (logs + RATIO_STEP * moved[..., 2]).clamp(-self._limit, self._limit)
        ratios = torch.stack([torch.exp(sign * slanted / 2 + shared[..., None]) for sign in (1, -1)])
        # Back along the input or on along the target is the same to a lag: each goes half the way.
        steps = torch.stack([torch.exp(sign * logs / 2) * moved[..., clip] for clip, sign in ((0, 1), (1, -1))])
        starts = self._fitted(middles + COLUMN_FRAMES * steps / 2, ratios)
        return Windows(starts[0], ratios[0], starts[1], ratios[1])

    def _fitted(self, middles: Tensor, ratios: Tensor) -> Tensor:
        """Starts of windows [2, ...] around their middles; where one would leave its clip, both go along together."""
        last, half = self.config.clip_frames - 1, (self._frames - 1) / 2
        earliest = (half - middles / ratios).amax(0)
        latest = ((last - middles) / ratios - half).amin(0)
        starts = middles + ratios * (torch.zeros_like(latest).maximum(earliest).minimum(latest) - half)
        fractions = starts / room(self.config.clip_frames, ratios, self._frames)
        return placed(fractions.clamp(0, 1), ratios, self.config.clip_frames, self._frames)

    @property
    def _frames(self) -> int:
        return self.config.output_frames

    def _shared_ratios(self, input: Tensor, target: Tensor) -> Tensor:
        """How much faster both clips are read, [B, P], as a logarithm whose mean over a pair's passages is 0.

        One passage is faster than the middle of both tempi where another is slower. All slower together would be no
        choice but an escape: between neighbouring frames latents are smoother, and smoother windows are more alike.
        """
        wished = torch.tanh(self.shared(facts(input, target)))
        return min(SHARED_LIMIT, self._limit / 2) * (wished - wished.mean(1, keepdim=True)) / 2

    @property
    def _limit(self) -> float:
        return math.log(self.config.ratio_limit)


def facts(*clips: Tensor) -> Tensor:
    """Mean and spread over time of clips [B, D, T], side by side: [B, 2 D a clip]."""
    spreads = [(clip.var(-1, correction=0) + EPSILON).sqrt() for clip in clips]
    return torch.cat([part for clip, spread in zip(clips, spreads) for part in (clip.mean(-1), spread)], 1)


class PooledSelector(nn.Module):
    """The selector of an earlier system, for comparison: both clips in 50 columns, and starts that get no gradient."""

    COLUMNS = 12_800 // (2 * 128)  # its first layer had so many inputs, of two clips with 128 values a column

    def __init__(self, config: BlendConfig) -> None:
        super().__init__()
        self.config = config
        inputs = 2 * self.COLUMNS * config.latent_dim
        self.layers = nn.Sequential(
            nn.Linear(inputs, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 4 * config.pairs)
        )

    def forward(self, input: Tensor, target: Tensor, noise: Tensor | None = None) -> Windows:
        """Normalised latents [B, D, T] of both clips -> windows; there is nothing to draw."""
        pooled = torch.cat([F.adaptive_avg_pool1d(clip, self.COLUMNS) for clip in (input, target)], 1).flatten(1)
        shares = self.layers(pooled).view(-1, self.config.pairs, 4).sigmoid()
        ratios = 1 + 0.2 * shares[..., 2:]
        latest = room(self.config.clip_frames, ratios, self.config.output_frames)
        starts = (shares[..., :2] * latest).detach().floor()
        return Windows(starts[..., 0], ratios[..., 0], starts[..., 1], ratios[..., 1])

    def noise(self, seeds: Sequence[int]) -> None:
        """None: it does not draw."""


def diagonal_sums(matrix: Tensor, length: int) -> Tensor:
    """Sums of `length` entries down each diagonal: [B, M, N] -> [B, M - length + 1, N - length + 1].

    Each diagonal is laid into a column, by reading rows that are wide enough as if they were one longer.
    """
    batch, rows, columns = matrix.shape
    width = rows + columns
    laid = F.pad(F.pad(matrix, (0, rows)).flatten(1), (0, rows)).view(batch, rows, width + 1)
    sums = F.pad(laid.cumsum(1), (0, 0, 1, 0))
    moving = sums[:, length:] - sums[:, :-length]
    back = F.pad(moving, (0, 0, 0, length - 1)).flatten(1)[:, : rows * width]
    return back.view(batch, rows, width)[:, : rows - length + 1, : columns - length + 1]


def _sampled(moments: Tensor, frames: object) -> Tensor:
    """Moments [B, E, T] read at fixed positions in frames, linear between neighbours."""
    positions = torch.as_tensor(frames, dtype=moments.dtype, device=moments.device)
    before = positions.floor().long().clamp(max=moments.shape[-1] - 2)
    return torch.lerp(moments[..., before], moments[..., before + 1], positions - before)


def log_power(latents: Tensor) -> Tensor:
    """[B, D, T] -> the logarithm of the smoothed power of each value, of the same shape."""
    padded = F.pad(latents.square(), (SMOOTHING_FRAMES // 2, SMOOTHING_FRAMES // 2 - 1), mode="replicate")
    return (F.avg_pool1d(padded, SMOOTHING_FRAMES, 1) + FAINTEST).log()


def _even(clip: Tensor) -> Tensor:
    """[B, D, T] -> the same with mean 0 and power 1 over time."""
    centred = clip - clip.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPSILON).sqrt()


def _peak(left: Tensor, centre: Tensor, right: Tensor) -> Tensor:
    """Where between -1/2 and 1/2 a parabola through three scores has its peak; 0 where it has none."""
    bend = left + right - 2 * centre
    curved = bend < -EPSILON
    place = 0.5 * (left - right) / torch.where(curved, bend, -1.0)
    return torch.where(curved, place, 0.0).clamp(-0.5, 0.5)
