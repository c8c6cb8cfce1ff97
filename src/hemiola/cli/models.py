"""`hemiola models list | show | fetch | convert`: what checkpoints there are, what is in them, and one made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hemiola.cli import options, screen
from hemiola.errors import WeightsError

app = typer.Typer(help="What models there are, and what is in them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help=options.MODEL_HELP, show_default=False)]


@app.command("list")
def list_() -> None:
    """List models: name, tab, where it is.

    Those bundled, those fetched to this disk, and those on the hub that are known to fit.
    """
    from hemiola.weights import hub

    on_disk = {each.name: each for each in hub.cached()}
    for name in dict.fromkeys([*hub.names(), *on_disk]):
        place = "bundled" if name in hub.BUNDLED else "on this disk" if name in on_disk else "to be fetched"
        screen.written(f"{name}\t{place}")


@app.command()
def show(name: Name) -> None:
    """Show the facts of a model on this disk.

    One a line: what it is, a tab, its value.
    """
    for fact, value in _facts(_on_disk(name)).items():
        screen.written(f"{fact}\t{value}")


@app.command()
def fetch(name: Name, allow_pickle: options.AllowPickle = False) -> None:
    """Fetch a model from the hub, once.

    What is on this disk already is not fetched again.
    """
    from hemiola.cli import checkpoints

    screen.written(checkpoints.found(name, allow_pickle).folder)


@app.command()
def convert(
    source: Name,
    target: Annotated[Path, typer.Argument(help="The new folder.", show_default=False)],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    backend: options.Backend = "auto",
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Write a model anew, in Hugging Face's layout.

    From any layout that can be read, audiocraft's too; as safetensors, which this program and transformers load.
    """
    from hemiola.cli import checkpoints
    from hemiola.musicgen import folder

    folder.check_target(target)
    folder.convert(
        checkpoints.found(source, allow_pickle).folder,
        target,
        dtype=dtype,
        backend=backend,
        allow_pickle=allow_pickle,
    )
    screen.written(target)


def _on_disk(name: str) -> Any:
    """The checkpoint, without fetching anything."""
    from hemiola.weights import hub

    if name in hub.BUNDLED or Path(name).expanduser().is_dir():
        return hub.locate(name)
    repo, _, revision = name.partition("@")
    for checkpoint in hub.cached():
        if checkpoint.name == repo and checkpoint.revision.startswith(revision if revision != "main" else ""):
            return checkpoint
    if "/" in name and not Path(name).exists():
        raise WeightsError(f"{name} is not on this disk: hemiola models fetch {name}")
    return hub.locate(name)


def _facts(checkpoint: Any) -> dict[str, Any]:
    from hemiola.cli import checkpoints
    from hemiola.codec.config import EncodecConfig
    from hemiola.musicgen.config import MusicgenConfig
    from hemiola.musicgen.windows import window_frames
    from hemiola.weights import hub, keys

    values = keys.json_of(checkpoint.folder / hub.CONFIG)
    name, revision = checkpoints.identity(checkpoint)
    files = keys.files(checkpoint.folder, allow_pickle=True)
    facts: dict[str, Any] = {"name": name, "revision": revision or "-", "folder": checkpoint.folder}
    facts["licence"] = checkpoints.licence(checkpoint)
    facts["size"] = screen.shown_bytes(sum(file.stat().st_size for file in files))
    facts |= _parameters(files)
    if "audio_encoder" in values:
        config = MusicgenConfig.from_dict(values)
        facts["kind"] = "text to music"
        clock = config.codec.timebase
        facts["window"] = screen.shown(clock.seconds(clock.samples_of(window_frames(config))))
        facts["decoder"] = f"{config.decoder.num_hidden_layers} layers, {config.decoder.hidden_size} wide"
        return facts | {"channels": config.decoder.audio_channels} | _codec_facts(config.codec)
    codec = EncodecConfig.from_dict(values)
    return facts | {"kind": "codec", "channels": codec.channels} | _codec_facts(codec)


def _codec_facts(codec: Any) -> dict[str, Any]:
    return {
        "sampling rate": f"{codec.sampling_rate} Hz",
        "frame rate": f"{float(codec.frame_rate):g} frames/s",
        "codebooks": f"{codec.codebooks} of {codec.codebook_size}",
        "bandwidths": ", ".join(f"{each:g}" for each in codec.target_bandwidths) + " kbps",
    }


def _parameters(files: list[Path]) -> dict[str, str]:
    """How many numbers the weights are, read from the heads of the files alone."""
    from math import prod

    from safetensors import SafetensorError, safe_open

    if any(file.suffix != ".safetensors" for file in files):
        return {}
    count = 0
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                # An open safetensors file has keys() and cannot be iterated.
                count += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is damaged or cut short: delete it and fetch it again") from error
    return {"parameters": f"{count:,}"}
