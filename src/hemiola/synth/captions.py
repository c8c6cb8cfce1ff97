"""Captions: what is true of a score, said in few and varied words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hemiola.synth.score import Score

_LEADS = {
    "piano": ("piano", "piano", "solo piano", "grand piano"),
    "guitar": ("guitar", "guitar", "plucked guitar", "acoustic guitar"),
    "bells": ("bells", "bells", "music box bells", "ringing bells"),
    "organ": ("organ", "organ", "electric organ"),
    "synth": ("synth", "synth", "synth lead", "electronic synth"),
    "flute": ("flute", "flute", "airy flute"),
    "strings": ("strings", "strings", "orchestral strings"),
    "marimba": ("marimba", "marimba", "wooden marimba"),
}
_DRUMS = {
    "soft": ("soft drums", "soft drums", "light drums", "gentle drums", "a soft beat"),
    "acoustic": ("drums", "drums", "a drum kit", "acoustic drums", "a rock beat"),
    "electronic": ("electronic drums", "electronic drums", "a drum machine", "drums and claps"),
    "driving": ("driving drums", "driving drums", "strong drums", "heavy drums", "a driving beat"),
}
_NO_DRUMS = ("no drums", "without drums", "no drums", "without percussion")
_MOODS = {
    ("major", "calm"): ("calm", "gentle", "warm", "peaceful", "relaxed"),
    ("major", "lively"): ("happy", "cheerful", "bright", "upbeat", "playful"),
    ("minor", "calm"): ("sad", "melancholic", "dark", "lonely", "moody"),
    ("minor", "lively"): ("tense", "dramatic", "urgent", "restless", "intense"),
}
_PACES = {"slow": ("slow", "slow", "downtempo"), "moderate": ("moderate", "medium"), "fast": ("fast", "fast", "quick")}
_SPOKEN = {"#": " sharp", "b": " flat"}
_SLOW_BELOW_BPM, _FAST_FROM_BPM = 84, 118


def pace(tempo_bpm: int) -> str:
    """The word for a tempo: "slow", "moderate" or "fast"."""
    return "slow" if tempo_bpm < _SLOW_BELOW_BPM else "fast" if tempo_bpm >= _FAST_FROM_BPM else "moderate"


def describe(score: Score, rng: np.random.Generator) -> str:
    """A caption: always the lead, mostly tempo, key and drums (or their absence), sometimes mood and other players."""
    head = _head(score, rng)
    tempo = f"{score.played_bpm} bpm" if rng.random() < 0.85 else ""
    key = _key(score, rng)
    drums = _drums(score, rng)
    others = _others(score, rng)
    tempo = tempo or ("" if head.split()[0] in _all(_PACES) else f"{_pick(_PACES[pace(score.played_bpm)], rng)} tempo")
    sentence = _tags if rng.random() < 0.3 else _sentence
    return _cased(sentence(head, key, others, drums, tempo, rng), rng)


def _head(score: Score, rng: np.random.Generator) -> str:
    """Pace, mood and lead: "slow sad piano melody"."""
    words = []
    if rng.random() < 0.5:
        words.append(_pick(_PACES[pace(score.played_bpm)], rng))
    if rng.random() < 0.5:
        words.append(_pick(_MOODS[score.mode, score.energy], rng))
    lead = _pick(_LEADS[score.lead], rng)
    if lead == "solo piano" and len(score.instruments) > 1:
        lead = "piano"
    words.append(lead)
    if not lead.endswith("s") and rng.random() < 0.35:
        words.append(_pick(("melody", "music", "tune", "piece"), rng))
    return " ".join(words)


def _key(score: Score, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.75:
        return f"in {_spelled(score.key, rng)} {score.mode}"
    return f"in a {score.mode} key" if draw < 0.9 else ""


def _spelled(key: str, rng: np.random.Generator) -> str:
    spoken = rng.random() < 0.3
    return key[0] + (_SPOKEN[key[1]] if spoken else key[1]) if len(key) > 1 else key


def _drums(score: Score, rng: np.random.Generator) -> str:
    if score.kit is None:
        return _pick(_NO_DRUMS, rng) if rng.random() < 0.85 else ""
    return f"with {_pick(_DRUMS[score.kit], rng)}" if rng.random() < 0.93 else ""


def _others(score: Score, rng: np.random.Generator) -> str:
    others = score.instruments[1:]
    if not others or rng.random() > 0.5:
        return ""
    return f"{_pick(('over', 'backed by'), rng)} {' and '.join(others)}"


def _sentence(head: str, key: str, others: str, drums: str, tempo: str, rng: np.random.Generator) -> str:
    """Clauses in one of a few orders: "slow piano in A minor with soft drums, 80 bpm"."""
    comma = f", {tempo}" if tempo else ""
    at = f"at {tempo}" if tempo.endswith("bpm") else comma
    bare = f", {drums}" if drums.startswith("no ") else drums
    orders = (
        (head, key, others, bare, comma),
        (head, others, bare, key, comma),
        (head, at, key, others, bare),
        (head, others, key, at, bare),
        (head, others, key, comma, f", {drums}" if drums else ""),
    )
    words = " ".join(clause for clause in orders[rng.integers(len(orders))] if clause)
    return words.replace(" ,", ",")


def _tags(head: str, key: str, others: str, drums: str, tempo: str, rng: np.random.Generator) -> str:
    """A list in any order: "80 bpm, slow piano, soft drums, A minor"."""
    bare = (key.removeprefix("in a ").removeprefix("in "), drums.removeprefix("with a ").removeprefix("with "), tempo)
    tags = [" ".join(filter(None, (head, others))), *filter(None, bare)]
    return ", ".join(tags[place] for place in rng.permutation(len(tags)))


def _cased(caption: str, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.15:
        return caption.lower()
    return caption[0].upper() + caption[1:] if draw < 0.3 else caption


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _all(words: dict[str, tuple[str, ...]]) -> set[str]:
    return {word for choices in words.values() for word in choices}
