"""T5's tokenizer, from the `tokenizer.json` of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from hemiola.errors import WeightsError

FILE = "tokenizer.json"


class Tokenizer:
    """Text to token ids, closed by the end token."""

    def __init__(self, path: Path, end: int) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            # The library raises bare Exceptions, for a missing file as for a broken one.
            raise WeightsError(f"{path} is not a readable tokenizer ({error}): fetch the checkpoint again") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._end = end

    @classmethod
    def from_folder(cls, folder: str | Path, end: int = 1) -> Tokenizer:
        """Read `folder`/tokenizer.json; `end` is the id of the end token. Raises WeightsError when there is none."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise WeightsError(f"{folder} has no {FILE}: fetch the checkpoint again, or save its tokenizer as {FILE}")
        return cls(path, end)

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, ending in the end token; never empty."""
        ids = self._tokenizer.encode(text).ids
        return ids if ids[-1:] == [self._end] else [*ids, self._end]
