"""What `hemiola train` runs: from a config's sections to data, module and an exported checkpoint folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import Dataset

from hemiola.audio.writing import replacing
from hemiola.backend import Backend, choose
from hemiola.codec.config import EncodecConfig
from hemiola.codec.encodec_torch import Encodec
from hemiola.codec.model import EncodecModel
from hemiola.errors import InputError
from hemiola.musicgen import tokenizer as tokenizers
from hemiola.musicgen.checkpoint_torch import load_parts, save
from hemiola.musicgen.config import DecoderConfig
from hemiola.musicgen.decoder_torch import Decoder
from hemiola.musicgen.sampling import USUAL, Sampling
from hemiola.musicgen.t5_torch import T5Encoder
from hemiola.musicgen.tokenizer import Tokenizer
from hemiola.timebase import Timebase
from hemiola.train import codec as codecs
from hemiola.train import config as configs
from hemiola.train import lora
from hemiola.train.captions import learn_tokenizer, number_words
from hemiola.train.codec import CodecRecipe, CodecTraining
from hemiola.train.data import Clip, Segments, StepData, parted
from hemiola.train.fit import Run, check_folder, fit
from hemiola.train.musicgen import MusicgenRecipe, MusicgenTraining, initialise, initialise_text
from hemiola.train.sections import Data, Text, TrainedCodec, TrainedModel
from hemiola.train.synthetic import Synthetic, fill
from hemiola.train.tokens import CaptionedTokens, TokenCache
from hemiola.weights import hub

Progress = Callable[[str, int, int], None]


def train_codec(config: Mapping[str, Any], *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train an EnCodec and write it to `run.folder`/checkpoint in Hugging Face's layout.

    It starts from the checkpoint that section `codec` names, or else from new weights in the shape of section `model`.
    """
    names = ("run", "data", "codec", "model", "recipe")
    run_values, data_values, codec_values, model_values, recipe_values = configs.sections(config, *names)
    run = configs.build(Run, run_values, "run")
    check_folder(run, resume)
    data = configs.build(Data, data_values, "data")
    recipe = configs.build(CodecRecipe, {"steps": run.steps, "seed": run.seed, **recipe_values}, "recipe")
    L.seed_everything(run.seed, verbose=False)
    if codec_values and model_values:
        raise InputError("sections codec and model: a codec starts from one or the other, leave one out")
    if codec_values:
        codec = trained_codec(configs.build(TrainedCodec, codec_values, "codec"), choose("torch", device_of(run)))
    else:
        codec = Encodec(configs.build(EncodecConfig, model_values, "model"))
        codecs.initialise(codec)
    clock = Timebase(codec.config.sampling_rate, 1)
    segments = [
        Segments(part, clock, str(data.segment_seconds), codec.config.channels, run.seed + number)
        for number, part in enumerate(_clips(data, progress))
    ]
    module = CodecTraining(codec, recipe, run.accumulate)
    trainer = fit(module, _feed(run, *segments), run, resume=resume)
    folder = Path(run.folder) / "checkpoint"
    if trainer.is_global_zero:
        module.export(folder)
    return folder


def train_musicgen(config: Mapping[str, Any], *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train text encoder and decoder on a codec's tokens; the whole model goes to `run.folder`/checkpoint.

    It starts from the checkpoint that section `start` names, with what section `model` says otherwise, or else from new
    weights in the shapes of sections `text` and `model`. Section `generation` is what the result is best asked with
    (guidance, top_k, top_p, temperature), where it is not as before. With `recipe.lora_rank` what has learned stands in
    `run.folder`/adapter too, by itself.
    """
    names = ("run", "data", "codec", "start", "text", "model", "recipe", "generation")
    sections = configs.sections(config, *names)
    run_values, data_values, codec_values, start_values, text_values, model_values, recipe_values, asked_with = sections
    run = configs.build(Run, run_values, "run")
    check_folder(run, resume)
    data = configs.build(Data, data_values, "data")
    recipe = configs.build(MusicgenRecipe, recipe_values, "recipe")
    start = configs.build(TrainedModel, start_values, "start") if start_values else None
    if recipe.lora_rank and start is None:
        raise InputError("recipe.lora_rank needs a model to start from: name one in section start")
    before = Sampling.from_folder(hub.locate(start.path).folder) if start else USUAL
    recommended = configs.build(Sampling, {**vars(before), **asked_with}, "generation")
    # A model that was trained has its own codec in it.
    codec_values = codec_values or {"path": start.path} if start else codec_values
    codec = trained_codec(configs.build(TrainedCodec, codec_values, "codec"), choose("torch", device_of(run)))
    codec.eval().requires_grad_(False)
    parts = _clips(data, progress)
    L.seed_everything(run.seed, verbose=False)
    folder = Path(run.folder)
    if start:
        tokenizer, text_encoder, decoder = _started(start, folder, model_values)
    else:
        text = configs.build(Text, text_values, "text")
        shape = {"vocab_size": codec.config.codebook_size, **model_values}
        tokenizer, text_encoder, decoder = _new(text, configs.build(DecoderConfig, shape, "model"), folder, parts[0])
    if recipe.lora_rank:
        text_encoder.requires_grad_(False)
        lora.adapt(decoder, recipe.lora_rank, recipe.lora_alpha)
    sets = _captioned(run, data, recipe, parts, codec, tokenizer, decoder.config, progress)
    module = MusicgenTraining(text_encoder, decoder, recipe, run.steps, run.accumulate)
    trainer = fit(module, _feed(run, *sets), run, resume=resume)
    if trainer.is_global_zero:
        if start and recipe.lora_rank:
            lora.save(decoder, folder / "adapter", start.path, recipe.lora_alpha)
        plain = lora.merged(decoder) if recipe.lora_rank else decoder
        save(folder / "checkpoint", text_encoder, plain, codec, folder / tokenizers.FILE, "float16", recommended)
    return folder / "checkpoint"


def _feed(run: Run, train: Dataset, valid: Dataset) -> StepData:
    return StepData(train, valid, steps=run.steps, batch=run.batch, workers=run.workers, parts=run.accumulate)


def _captioned(
    run: Run,
    data: Data,
    recipe: MusicgenRecipe,
    parts: tuple[list[Clip], list[Clip]],
    codec: Encodec,
    tokenizer: Tokenizer,
    model: DecoderConfig,
    progress: Progress | None,
) -> tuple[CaptionedTokens, CaptionedTokens]:
    """The clips to train and to validate with, as tokens."""
    train, valid = (
        TokenCache(Path(data.folder) / "tokens", codec, part, model.audio_channels).build(
            progress and (lambda *at: progress("tokens", *at))
        )
        for part in parts
    )
    clock = codec.config.timebase
    frames = clock.frames(clock.samples(str(data.segment_seconds)))
    captions = [[clip.caption for clip in part] for part in parts]
    starts = [[clock.frame_near(second) for second in clip.starts] for clip in parts[0]]
    pattern = model.pattern
    return (
        CaptionedTokens(
            train, captions[0], tokenizer, pattern, frames=frames, starts=starts, noise=recipe.noise, seed=run.seed
        ),
        CaptionedTokens(valid, captions[1], tokenizer, pattern, frames=frames),
    )


def _clips(data: Data, progress: Progress | None) -> tuple[list[Clip], list[Clip]]:
    if data.synthetic is not None:
        wanted = configs.build(Synthetic, data.synthetic, "data.synthetic")
        fill(Path(data.folder), wanted, workers=2, progress=progress and (lambda *at: progress("composing", *at)))
    return parted(Path(data.folder))


def trained_codec(wanted: TrainedCodec, choice: Backend) -> Encodec:
    """The codec of a config's section `codec`, as a network of its own."""
    network = EncodecModel.from_pretrained(wanted.path, backend="torch", device=choice.device).network
    # A network of its own: what was loaded may share memory with the file.
    codec = Encodec(network.config).to(choice.device)
    codec.load_state_dict(network.state_dict())
    return codec


def _new(text: Text, shape: DecoderConfig, folder: Path, clips: list[Clip]) -> tuple[Tokenizer, T5Encoder, Decoder]:
    """Tokenizer, text encoder and decoder that know nothing yet but the captions' words."""
    path = folder / tokenizers.FILE
    if not path.exists():  # else a run is resumed
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path, force=True) as partial:  # another rank may be writing the same
            learn_tokenizer([clip.caption for clip in clips], text.words).save(str(partial))
    tokenizer = Tokenizer.from_folder(folder)
    text_encoder, decoder = T5Encoder(text.encoder_config(tokenizer.vocab_size)), Decoder(shape, text.d_model)
    initialise_text(text_encoder, number_words(tokenizer))
    initialise(decoder)
    return tokenizer, text_encoder, decoder


def _started(
    start: TrainedModel, folder: Path, model_values: Mapping[str, Any]
) -> tuple[Tokenizer, T5Encoder, Decoder]:
    """Tokenizer, text encoder and decoder of the model that a run starts from; the tokenizer is kept with the run."""
    place = hub.locate(start.path).folder
    tokenizer = Tokenizer.from_folder(place)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / tokenizers.FILE, force=True) as partial:
        partial.write_bytes((place / tokenizers.FILE).read_bytes())
    text_encoder, decoder = load_parts(place)
    decoder.config = replace(decoder.config, **model_values)
    return tokenizer, text_encoder, decoder


def device_of(run: Run) -> str:
    """Where a run computes, by the backend's name for it."""
    return {"gpu": "cuda"}.get(run.accelerator, run.accelerator)
