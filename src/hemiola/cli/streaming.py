"""`hemiola generate --stream`: music that is written, played or piped on while it is made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemiola.cli import screen
from hemiola.errors import BackendError, InputError, OutputError

if TYPE_CHECKING:
    import numpy as np

    from hemiola.audio.finish import Finish
    from hemiola.cli.naming import Place
    from hemiola.cli.records import Record
    from hemiola.generation import MusicGen, Result
    from hemiola.request import Request

    Sink = Callable[[np.ndarray], object]  # takes a block, float32 [channels, samples]
    Told = Callable[[Result, Path], str]  # the record of a piece at a path

STDOUT = Path("-")
# Raw PCM: float32, little-endian, channels side by side. Nothing clips, and players know it as f32le.
PCM = "<f4"


@dataclass(frozen=True)
class Flow:
    """How a stream runs: `block` seconds at a time, and through a loudspeaker or not."""

    block: str
    play: bool

    def check(self, output: Path | None, places: list[Place], pieces: int, finish: Finish) -> None:
        """Raise InputError, OutputError or BackendError for what cannot be streamed, before any work is done."""
        from hemiola.timebase import exact_seconds

        try:
            is_nothing = exact_seconds(self.block) == 0
        except ValueError as error:
            raise InputError(f"--block: {error}") from None
        if is_nothing:
            raise InputError(f"--block must be above 0 s, not {self.block}")
        if finish.to_dict():
            raise InputError(
                "a stream leaves as it is made: leave out --sample-rate, --fade-in, --fade-out, --loudness"
            )
        if output == STDOUT and pieces > 1:
            raise InputError(f"one piece goes to stdout, not {pieces}: name a folder with -o")
        if output == STDOUT and sys.stdout.isatty():
            raise OutputError("raw audio would go to the terminal: pipe it into a player, or name a file")
        for place in places:
            if place.path.suffix.lower() != ".wav":
                raise OutputError(f"{place.path} cannot be streamed, for its peak is known at the end: name a .wav")
        if self.play:
            _sounddevice()


def make(
    requests: list[Request], places: list[Place], music: MusicGen, expected: Record | None, flow: Flow, told: Told
) -> None:
    """Make pieces one after another, each into its place while it is made; without places, one to stdout."""
    for index, request in enumerate(requests):
        with ExitStack() as sinks:
            speaker = [sinks.enter_context(_speaker(music))] if flow.play else []
            play = partial(_made, request, music, expected, flow)
            if places:
                _file(places[index], music, speaker, play, told)
            else:
                play([*speaker, _stdout(music)])


def _file(place: Place, music: MusicGen, sinks: list[Sink], play: Callable[[list[Sink]], Result], told: Told) -> None:
    """Write audio and record; both appear when the piece is whole, or neither."""
    from hemiola.audio import io, writing
    from hemiola.cli import naming

    with (
        place.claimed() as (path, force),
        writing.replacing(naming.record_path(path), force=force) as temporary,
        io.growing(path, music.sampling_rate, music.channels, force=force) as write,
    ):
        text = told(play([write, *sinks]), path)
        # A path may hold bytes that are no text; this writes them as JSON does.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    screen.written(path)


def _made(request: Request, music: MusicGen, expected: Record | None, flow: Flow, sinks: list[Sink]) -> Result:
    """One piece, given to every sink block by block, and then as a whole."""
    import numpy as np

    from hemiola.audio.audio import Audio
    from hemiola.generation import Result

    clock = music.timebase
    length, size = request.samples(clock), max(1, clock.frame_near(flow.block))
    codes, audio, began, heard = [], [], time.perf_counter(), 0.0
    with screen.music_bar("music", clock.seconds(length)) as progress:
        for block in music.stream([request], block_frames=size, progress=progress):
            codes.append(block.codes[0])
            audio.append(block.audio[0])
            if audio[-1].shape[1]:
                heard = heard or time.perf_counter() - began
                for sink in sinks:
                    sink(audio[-1])
    result = Result(request, np.concatenate(codes, axis=1), Audio(np.concatenate(audio, axis=1), music.sampling_rate))
    if expected is not None:
        expected.require_same(result)
    speed = float(result.audio.seconds) / (time.perf_counter() - began)
    shown = f"{result.audio.length:,} samples, {screen.shown(result.audio.seconds)}, {speed:.1f}x real time"
    screen.note(f"  {shown}, the first after {heard:.2f} s")
    return result


def _stdout(music: MusicGen) -> Sink:
    channels = "1 channel" if music.channels == 1 else f"{music.channels} channels, interleaved"
    screen.note(f"raw PCM to stdout: {music.sampling_rate} Hz, {channels}, 32-bit float, little-endian (f32le)")

    def write(block: np.ndarray) -> None:
        sys.stdout.buffer.write(block.T.astype(PCM).tobytes())
        sys.stdout.buffer.flush()

    return write


@contextmanager
def _speaker(music: MusicGen) -> Iterator[Sink]:
    """What plays blocks; it ends when the last is heard."""
    import numpy as np

    sounddevice = _sounddevice()
    try:
        device = sounddevice.OutputStream(music.sampling_rate, channels=music.channels, dtype="float32")
    except (sounddevice.PortAudioError, ValueError) as error:
        raise BackendError(f"no device plays {music.sampling_rate} Hz ({error}): leave out --play") from error
    with device:
        yield lambda block: device.write(np.ascontiguousarray(block.T))


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise BackendError("--play needs a library that is not there: pip install 'hemiola[play]'") from error
    except OSError as error:
        raise BackendError("--play needs PortAudio, which is not there: install libportaudio2") from error
    return sounddevice
