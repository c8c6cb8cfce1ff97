"""Captions: what is true of a score, said in few and varied words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from hemiola.synth.score import Score

# What each lead is called; the first name is its own and comes twice as often.
LEAD_NAMES: Mapping[str, tuple[str, ...]] = {
    "piano": ("piano", "piano", "solo piano", "grand piano", "upright piano"),
    "guitar": ("guitar", "guitar", "plucked guitar", "acoustic guitar", "nylon guitar"),
    "bells": ("bells", "bells", "music box bells", "ringing bells", "chimes"),
    "organ": ("organ", "organ", "electric organ", "church organ"),
    "synth": ("synth", "synth", "synth lead", "electronic synth", "synthesizer"),
    "flute": ("flute", "flute", "airy flute", "wooden flute"),
    "strings": ("strings", "strings", "orchestral strings", "string ensemble", "violins"),
    "marimba": ("marimba", "marimba", "wooden marimba", "mallets"),
    "trumpet": ("trumpet", "trumpet", "bright trumpet", "brass"),
    "clarinet": ("clarinet", "clarinet", "woody clarinet"),
    "harp": ("harp", "harp", "plucked harp"),
}
_DRUMS = {
    "soft": ("soft drums", "soft drums", "light drums", "gentle drums", "a soft beat"),
    "acoustic": ("drums", "drums", "a drum kit", "acoustic drums", "a rock beat"),
    "electronic": ("electronic drums", "electronic drums", "a drum machine", "drums and claps", "an electronic beat"),
    "driving": ("driving drums", "driving drums", "strong drums", "heavy drums", "a driving beat"),
}
_NO_DRUMS = ("no drums", "no drums", "without drums", "without drums", "without percussion", "no percussion")
_MOODS = {
    ("major", "calm"): ("calm", "gentle", "warm", "peaceful", "relaxed"),
    ("major", "lively"): ("happy", "cheerful", "bright", "upbeat", "playful"),
    ("minor", "calm"): ("sad", "melancholic", "dark", "lonely", "moody"),
    ("minor", "lively"): ("tense", "dramatic", "urgent", "restless", "intense"),
}
_PACES = {"slow": ("slow", "slow", "downtempo"), "moderate": ("moderate", "medium"), "fast": ("fast", "fast", "quick")}
_DYNAMICS = {"building": ("building up", "getting louder"), "fading": ("fading", "getting softer")}
_KINDS = ("melody", "music", "tune", "piece", "track")
_SPOKEN = {"#": " sharp", "b": " flat"}
_SLOW_BELOW_BPM, _FAST_FROM_BPM = 84, 118
# Longest first, so that "synthesizer" is not read as "synth".
_LEAD = re.compile(
    r"\b("
    + "|".join(sorted({name for names in LEAD_NAMES.values() for name in names}, key=len, reverse=True))
    + r")\b",
    re.IGNORECASE,
)


def pace(tempo_bpm: float) -> str:
    """The word for a tempo: "slow", "moderate" or "fast"."""
    return "slow" if tempo_bpm < _SLOW_BELOW_BPM else "fast" if tempo_bpm >= _FAST_FROM_BPM else "moderate"


def lead_named(caption: str) -> str | None:
    """The lead that a caption names: of all instruments in it, the first; None where it names none."""
    found = _LEAD.search(caption)
    return next(lead for lead, names in LEAD_NAMES.items() if found[1].lower() in names) if found else None


def describe(score: Score, rng: np.random.Generator) -> str:
    """A caption: always the lead, mostly tempo, key and drums (or their absence), sometimes mood and other players."""
    head = _head(score, rng)
    tempo = _tempo(score, rng) if rng.random() < 0.88 else ""
    key = _key(score, rng)
    drums = _drums(score, rng)
    others = " ".join(filter(None, (_others(score, rng), _dynamics(score, rng))))
    tempo = tempo or ("" if head.split()[0] in _all(_PACES) else f"{_PACES[pace(score.played_bpm)][0]} tempo")
    sentence = (_tags, _sentence, _sentence, _two_sentences)[int(rng.integers(4))]
    return _cased(sentence(head, key, others, drums, tempo, rng), rng)


def _head(score: Score, rng: np.random.Generator) -> str:
    """Pace, mood and lead: "slow sad piano melody"."""
    words = []
    if rng.random() < 0.5:
        words.append(_pick(_PACES[pace(score.played_bpm)], rng))
    if rng.random() < 0.5:
        words.append(_pick(_MOODS[score.mode, score.energy], rng))
    lead = _pick(LEAD_NAMES[score.lead], rng)
    if lead == "solo piano" and len(score.instruments) > 1:
        lead = "piano"
    words.append(lead)
    if not lead.endswith("s") and rng.random() < 0.35:
        words.append(_pick(_KINDS, rng))
    return " ".join(words)


def _tempo(score: Score, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.1:
        return f"{score.played_bpm} beats per minute"
    return f"tempo {score.played_bpm} bpm" if draw < 0.2 else f"{score.played_bpm} bpm"


def _key(score: Score, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.15:
        return f"in the key of {_spelled(score.key, rng)} {score.mode}"
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
    return f"{_pick(('over', 'backed by', 'accompanied by'), rng)} {' and '.join(others)}"


def _dynamics(score: Score, rng: np.random.Generator) -> str:
    return _pick(_DYNAMICS[score.dynamics], rng) if score.dynamics in _DYNAMICS and rng.random() < 0.7 else ""


def _sentence(head: str, key: str, others: str, drums: str, tempo: str, rng: np.random.Generator) -> str:
    """Clauses in one of a few orders: "slow piano in A minor with soft drums, 80 bpm"."""
    comma = f", {tempo}" if tempo else ""
    at = f"at {tempo.removeprefix('tempo ')}" if tempo[-1:] in ("m", "e") else comma
    bare = f", {drums}" if drums.startswith("no ") else drums
    orders = (
        (head, key, others, bare, comma),
        (head, others, bare, key, comma),
        (head, at, key, others, bare),
        (head, others, key, at, bare),
        (head, others, key, comma, f", {drums}" if drums else ""),
    )
    words = " ".join(clause for clause in orders[rng.integers(len(orders))] if clause).replace(" ,", ",")
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}" if _takes_article(head) and rng.random() < 0.5 else words


def _takes_article(head: str) -> bool:
    return head.split()[-1] in ("melody", "tune", "piece", "track")


def _two_sentences(head: str, key: str, others: str, drums: str, tempo: str, rng: np.random.Generator) -> str:
    """The lead and its key, then the rest: "slow piano in A minor. Soft drums, 80 bpm"."""
    rest = [each for each in (_without_article(drums.removeprefix("with ")), tempo) if each]
    first = " ".join(filter(None, (head, key, others)))
    second = ", ".join(rest[place] for place in rng.permutation(len(rest)))
    return f"{first}. {second[0].upper()}{second[1:]}" if second else first


def _tags(head: str, key: str, others: str, drums: str, tempo: str, rng: np.random.Generator) -> str:
    """A list in any order: "80 bpm, slow piano, soft drums, A minor"."""
    bare_key = _without_article(key.removeprefix("in the key of ").removeprefix("in "))
    bare = (bare_key, _without_article(drums.removeprefix("with ")), tempo)
    tags = [" ".join(filter(None, (head, others))), *filter(None, bare)]
    return ", ".join(tags[place] for place in rng.permutation(len(tags)))


def _without_article(words: str) -> str:
    return words.removeprefix("an ").removeprefix("a ")


def _cased(caption: str, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < 0.15:
        return caption.lower()
    return caption[0].upper() + caption[1:] if draw < 0.3 else caption


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _all(words: dict[str, tuple[str, ...]]) -> set[str]:
    return {word for choices in words.values() for word in choices}
