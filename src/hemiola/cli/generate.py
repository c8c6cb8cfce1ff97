"""`hemiola generate`: prompts to files of music, each with a record that makes it again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from hemiola.cli import options, results, screen, streaming
from hemiola.errors import InputError

if TYPE_CHECKING:
    from hemiola.audio.audio import Audio
    from hemiola.audio.finish import Finish
    from hemiola.backend import Backend
    from hemiola.cli.naming import Place
    from hemiola.cli.records import Record
    from hemiola.generation import MusicGen, Result
    from hemiola.request import Request
    from hemiola.weights.hub import Checkpoint

SIDE_BY_SIDE = 4  # memory stays modest
MACHINE = {"backend": "auto", "device": "auto", "dtype": "float32"}


def generate(
    prompt: Annotated[str | None, Argument(help="What the music is to be like.", show_default=False)] = None,
    seconds: Annotated[str | None, Option(help="Length, exact: 3, 2.5, 1/3. [default: 8]")] = None,
    seed: Annotated[int | None, Option(help="Same seed, same music. [default: drawn]")] = None,
    output: Annotated[Path | None, Option("-o", "--output", help="File (.wav .flac .ogg .mp3) or folder.")] = None,
    count: Annotated[int, Option(min=1, max=1000, help="Variations of each prompt.")] = 1,
    batch_file: Annotated[Path | None, Option(help="Prompts, one a line: text or JSON; - is stdin.")] = None,
    from_: Annotated[Path | None, Option("--from", help="Make the piece of this .json again.")] = None,
    model: Annotated[str | None, Option(help=f"{options.MODEL_HELP} [default: sketch]")] = None,
    guidance: Annotated[float | None, Option(help="Weight of the prompt; 1: none. [default: the model's]")] = None,
    negative: Annotated[str | None, Option(help="A prompt to steer away from.")] = None,
    continue_: Annotated[
        Path | None, Option("--continue", help="A clip to go on from; --seconds is the whole.")
    ] = None,
    melody: Annotated[Path | None, Option(help="A tune to follow, for a melody model; the whole mix is used.")] = None,
    window_stride: Annotated[str | None, Option(help="New seconds in each window. [default: 3/5 of one]")] = None,
    top_k: Annotated[int | None, Option(help="Likeliest tokens kept; 0: all. [default: the model's]")] = None,
    top_p: Annotated[float | None, Option(help="Share of probability kept; 1: all. [default: the model's]")] = None,
    temperature: Annotated[float | None, Option(help="0: always the likeliest. [default: the model's]")] = None,
    backend: Annotated[str | None, Option(help="torch or mlx. [default: auto]")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, mps or gpu. [default: auto]")] = None,
    dtype: Annotated[str | None, Option(help="float32, bfloat16, float16, int8, auto. [default: float32]")] = None,
    quantize: Annotated[int | None, Option(help="Bits of the matrices: 8, on mlx also 4. [default: off]")] = None,
    side_by_side: Annotated[
        int | None, Option(min=1, max=256, help="Pieces written at once; more take more memory. [default: 4]")
    ] = None,
    sample_rate: results.SampleRate = None,
    fade_in: results.FadeIn = None,
    fade_out: results.FadeOut = None,
    loudness: results.Loudness = None,
    format: results.Format = None,
    stream: Annotated[bool, Option("--stream", help="Write a .wav while it is made; -o - pipes raw audio on.")] = False,
    play: Annotated[bool, Option("--play", help="Play it while it is made.")] = False,
    block: Annotated[str, Option(help="Seconds in a block of a stream.")] = "0.5",
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Make music from a prompt, exactly as long as you say.

    Writes the audio and a .json beside it, from which `hemiola generate --from FILE.json` makes the same piece again.
    Without -o the file is named after prompt and seed. Several pieces are numbered: song-1.wav, song-2.wav.
    A piece is resampled, then faded, then brought to its loudness, never past full scale; the length stays exact.
    """
    from hemiola.cli import naming, records

    record = None if from_ is None else records.read(from_)
    settings = _given(prompt=prompt, seconds=seconds, seed=seed, guidance=guidance, negative=negative)
    settings |= _given(top_k=top_k, top_p=top_p, temperature=temperature)
    settings |= _given(prompt_audio=continue_, melody=melody, window_stride=window_stride)
    requests = _requests(settings, record, batch_file, count)
    finish = results.finish(record, sample_rate=sample_rate, fade_in=fade_in, fade_out=fade_out, loudness=loudness)
    suffix = results.suffix(output, format, record)
    is_pipe = output == streaming.STDOUT
    places = [] if is_pipe else naming.places(output, requests, count, suffix=suffix, force=force)
    for request, place in zip(requests, places):
        results.require_fit(finish, place.path, request.seconds)
    flow = streaming.Flow(block, play) if stream or play or is_pipe else None
    if flow is not None:
        flow.check(output, places, len(requests), finish)
        if side_by_side is not None:
            raise InputError("pieces of a stream are made one after another: leave out --side-by-side")
    machine = _given(backend=backend, device=device, dtype=dtype, quantize=quantize)
    studio = _load(model, machine, record, allow_pickle)
    requests = [studio.music.settled(request) for request in requests]
    # A record is held to what it says when nothing about the music is asked for otherwise.
    is_again = record is not None and not settings and model is None and count == 1
    expected = record if is_again else None
    if flow is None:
        _make(requests, places, studio, finish, expected, side_by_side or SIDE_BY_SIDE)
    else:
        told = partial(_told, studio=studio, finish=finish)
        streaming.make(requests, places, studio.music, expected, flow, told)


@dataclass(frozen=True)
class _Studio:
    """A model ready to use, and what a record says about it."""

    music: MusicGen
    checkpoint: Checkpoint
    choice: Backend


def _given(**values: Any) -> dict[str, Any]:
    """The options that were given; of the others a record speaks, or the defaults of Request."""
    return {name: value for name, value in values.items() if value is not None}


def _requests(settings: dict[str, Any], record: Record | None, batch_file: Path | None, count: int) -> list[Request]:
    """What is to be made, in order, each with its seed: `count` variations of every prompt."""
    from hemiola.cli import batch_file as prompts
    from hemiola.request import Request

    if batch_file is not None and (record is not None or "prompt" in settings):
        raise InputError("--batch-file brings its own prompts: leave out the prompt and --from")
    if batch_file is not None:
        wanted = prompts.read(batch_file, settings)
    elif record is not None:
        wanted = [Request(**record.request_with(settings))]
    elif settings.keys() & {"prompt", "prompt_audio", "melody"}:
        wanted = [Request(**settings)]
    else:
        raise InputError('a prompt is missing: hemiola generate "slow piano with soft drums"')
    if not all(request.words for request in wanted):
        screen.note("note: an empty prompt leaves the model free to play anything")
    if any(request.melody for request in wanted):
        screen.note("note: the melody is that of the whole mix, whose sources are not separated")
    seeded = [request.settled() for request in wanted]
    return [replace(each, variation=each.variation + number) for each in seeded for number in range(count)]


def _load(model: str | None, machine: dict[str, Any], record: Record | None, allow_pickle: bool) -> _Studio:
    from hemiola import backend as backends
    from hemiola.cli import checkpoints
    from hemiola.generation import DEFAULT_MODEL, MusicGen

    machine = {**MACHINE, **(record.machine if record else {}), **machine}
    name = model or (record.model if record else DEFAULT_MODEL)
    checkpoint = checkpoints.found(name, allow_pickle)
    choice = backends.choose(machine["backend"], machine["device"], machine["dtype"], machine.get("quantize"))
    music = MusicGen.from_pretrained(
        checkpoint.folder,
        backend=choice.name,
        device=choice.device,
        dtype=choice.dtype,
        quantize=choice.quantize,
        allow_pickle=allow_pickle,
    )
    return _Studio(music, checkpoint, choice)


def _make(
    requests: list[Request],
    places: list[Place],
    studio: _Studio,
    finish: Finish,
    expected: Record | None,
    side_by_side: int,
) -> None:
    clock, count = studio.music.timebase, len(requests)
    seconds = sum((clock.seconds(request.samples(clock)) for request in requests), Fraction())
    pace = screen.Pace(seconds)
    pieces = studio.music.each(requests, side_by_side=side_by_side, progress=pace)
    for done in range(count):
        with pace.bar("music" if count == 1 else f"{done} of {count}"):
            number, result = next(pieces)
        speed = pace.times_real_time
        if expected is not None:
            expected.require_same(result)
        audio = _write(result, places[number], studio, finish)
        screen.note(f"  {audio.length:,} samples, {screen.shown(audio.seconds)}, {speed:.1f}x real time")


def _write(result: Result, place: Place, studio: _Studio, finish: Finish) -> Audio:
    """Finish a piece, write record and audio, both or neither, and say what was done."""
    from hemiola.audio.writing import replacing
    from hemiola.cli import naming

    finished = finish.apply(result.audio, result.request.seconds)
    result = replace(result, audio=finished.audio)
    with place.claimed() as (path, force):
        text = _told(result, path, studio, finish)
        with replacing(naming.record_path(path), force=force) as temporary:
            # A path may hold bytes that are no text; this writes them as JSON does.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
            saved = result.audio.save(path, force=force)
    screen.written(path)
    results.describe(finished, finish, saved)
    return result.audio


def _told(result: Result, path: Path, studio: _Studio, finish: Finish) -> str:
    """The record of a piece at a path."""
    from hemiola.cli import records

    return records.record(result, finish, path, studio.checkpoint, studio.choice)
