"""`hemiola pairs`: a folder of audio to a dataset of pairs, for training a blend."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from hemiola.cli import options, screen
from hemiola.errors import BackendError, InputError, WeightsError

if TYPE_CHECKING:
    from hemiola.train.cutting import CutFile
    from hemiola.train.pairs import PairFolder
    from hemiola.weights.hub import Checkpoint

PUBLISHED, BUNDLED = "facebook/encodec_24khz", "sketch-24khz"


def pairs(
    audio: Annotated[Path, Argument(help="A folder of sound files, each of them a track.", show_default=False)],
    output: Annotated[Path, Option("-o", "--output", help="The dataset's folder; one that is there is gone on with.")],
    clip_seconds: Annotated[str, Option(help="Length of a clip.")] = "24",
    codec: Annotated[
        str | None, Option(help=f"Whose latents to make. [default: {PUBLISHED}, or {BUNDLED} where it cannot be had]")
    ] = None,
    pairing: Annotated[str, Option(help="across: two clips of two tracks; within: two of one.")] = "across",
    valid_share: Annotated[float, Option(help="The share of tracks that is kept for validation.")] = 0.1,
    seed: Annotated[int, Option(min=0, help="Draws the split and the pairs.")] = 0,
    device: options.Device = "auto",
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Make a dataset of pairs from a folder of audio.

    Files are mixed to mono, resampled to the codec's rate, cut into clips and encoded, each of them once: what was
    done by an earlier run stays. Tracks are split into training and validation. A file that gives no clip is named
    with the reason; report.jsonl in the dataset tells of every file.
    """
    from hemiola.codec.model import EncodecModel

    try:
        from hemiola.train import cutting, latents
        from hemiola.train import pairing as pairings
        from hemiola.train import pairs as datasets
    except ModuleNotFoundError as error:
        raise BackendError(f"making pairs needs {error.name}: pip install 'hemiola[train]'") from error
    wanted = pairings.Pairing(pairing, valid_share, seed)
    length = _length(clip_seconds)
    if not audio.is_dir():
        raise InputError(f"no such folder of audio: {audio}")
    checkpoint = _found(codec, allow_pickle)
    model = EncodecModel.from_pretrained(checkpoint.folder, backend="torch", device=device, allow_pickle=allow_pickle)
    form = cutting.Form(length, model.sampling_rate)
    latents.check_codec(model.config)
    with screen.phase_bars() as bars:
        datasets.prepare(output, form.settings)
        files = cutting.cut_all(audio, output, form, workers=2, progress=bars)
        _tell(files)
        dataset = pairings.make(audio, output, files, wanted)
        cache = latents.LatentCache(dataset, model.network)
        cache.build(partial(bars, "encoding"))
    datasets.write_settings(output, {**dataset.settings, "codec": _identity(checkpoint, cache.folder.name)})
    _describe(dataset)
    screen.written(output)


def _length(clip_seconds: str) -> Fraction:
    from hemiola.timebase import exact_seconds

    try:
        length = exact_seconds(clip_seconds)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not length:
        raise InputError("a clip of 0 s holds nothing: ask for longer ones")
    return length


def _found(codec: str | None, allow_pickle: bool) -> Checkpoint:
    """The codec that was asked for; else the published one, or the bundled one where that cannot be had."""
    from hemiola.cli import checkpoints

    if codec is not None:
        return checkpoints.found(codec, allow_pickle)
    try:
        checkpoint = checkpoints.found(PUBLISHED)
    except WeightsError as error:
        screen.note(f"  {error}")
        checkpoint = checkpoints.found(BUNDLED)
    screen.note(f"  codec: {checkpoint.name}")
    return checkpoint


def _identity(checkpoint: Checkpoint, key: str) -> dict[str, Any]:
    from hemiola.cli import checkpoints

    name, revision = checkpoints.identity(checkpoint)
    return {"name": name, "revision": revision, "latents": key}


def _tell(files: list[CutFile]) -> None:
    """Name the files that gave no clip."""
    for each in files:
        if not each.fate.used:
            screen.note(f"  left out: {each.fate.file} {each.fate.why}")
    screen.note(f"  {sum(each.fate.used for each in files)} of {len(files)} files used")


def _describe(dataset: PairFolder) -> None:
    from hemiola.train.pairs import SPLITS

    clips = Counter(cut.split for cut in dataset.cuts.values())
    for split in SPLITS:
        tracks = {cut.track for cut in dataset.cuts.values() if cut.split == split}
        screen.note(f"  {split}: {len(tracks)} tracks, {clips[split]} clips, {len(dataset.of(split))} pairs")
