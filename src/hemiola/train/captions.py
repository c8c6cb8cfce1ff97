"""A word-level tokenizer learned from captions, written as tokenizer.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from hemiola.musicgen import tokenizer as read

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
UNKNOWN_ID = 2
TEMPI_BPM = range(40, 201)  # numbers that a tokenizer knows in any case
WORD = r"\p{L}+#?|\p{N}+"  # "C#" is one word; other punctuation says nothing


def learn_tokenizer(captions: Iterable[str], words: int) -> Tokenizer:
    """A tokenizer of at most `words` ids: 0, 1, 2 are pad, end and unknown, then the captions' most frequent words.

    Words are in lower case and a number is a word; tempi that no caption gives come last, as far as there is room.
    Every text ends with the end token, as T5's do.
    """
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption)))
    counts.update({str(tempo): 0 for tempo in TEMPI_BPM})
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[: words - 3]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([PAD, END, UNKNOWN, *ranked])}, UNKNOWN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, 1)]
    )
    return tokenizer


def number_words(tokenizer: read.Tokenizer) -> dict[int, int]:
    """The tempi that are words of their own, and their ids."""
    found = {tempo: tokenizer.encode(str(tempo)) for tempo in TEMPI_BPM}
    return {tempo: ids[0] for tempo, ids in found.items() if len(ids) == 2 and ids[0] != UNKNOWN_ID}
