"""The learned tokenizer: which words it knows, and that transformers reads it and agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from hemiola.musicgen.tokenizer import Tokenizer
from hemiola.train.captions import learn_tokenizer

CAPTIONS = [
    "A slow piano piece in C# minor, 80 bpm.",
    "Slow strings in C minor; with drums!",
    "slow organ, 120 bpm",
    "A bright façade of bells",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    learn_tokenizer(CAPTIONS, words=100).save(str(folder / "tokenizer.json"))
    return folder


def words(folder: Path, text: str) -> list[str]:
    known = {number: word for word, number in learn_tokenizer(CAPTIONS, words=100).get_vocab().items()}
    return [known[number] for number in Tokenizer.from_folder(folder).encode(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Slow PIANO in C# minor, 120 bpm!", ["slow", "piano", "in", "c#", "minor", "120", "bpm", "</s>"]),
        ("in C minor.", ["in", "c", "minor", "</s>"]),
        ("80bpm", ["80", "bpm", "</s>"]),
        ("slow kazoo", ["slow", "<unk>", "</s>"]),
        ("  ...  ", ["</s>"]),
        ("", ["</s>"]),
        ("fac\u0327ade", ["façade", "</s>"]),
        ("# slow #", ["slow", "</s>"]),
    ],
)
def test_words(folder: Path, text: str, expected: list[str]) -> None:
    assert words(folder, text) == expected


def test_the_most_frequent_words_are_kept() -> None:
    tokenizer = learn_tokenizer(CAPTIONS, words=6)
    # "slow" stands there three times; of those that stand there twice, "a" and "bpm" come first in the alphabet.
    assert tokenizer.get_vocab() == {"<pad>": 0, "</s>": 1, "<unk>": 2, "slow": 3, "a": 4, "bpm": 5}


def test_the_order_of_the_captions_does_not_matter() -> None:
    assert learn_tokenizer(CAPTIONS[::-1], words=30).to_str() == learn_tokenizer(CAPTIONS, words=30).to_str()


@pytest.mark.parametrize("text", [*CAPTIONS, "kazoo in c# minor", "", "a" * 300])
def test_transformers_reads_it_and_agrees(folder: Path, text: str) -> None:
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    assert theirs(text)["input_ids"] == Tokenizer.from_folder(folder).encode(text)
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)
