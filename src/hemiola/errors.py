"""Every error Hemiola raises on purpose.

    HemiolaError                exit code 1
    ├── InputError              2   what was asked for cannot be done as asked: a duration, a setting, a prompt
    │   ├── AudioError          2   a file that is not readable as audio, or audio that is empty or not finite
    │   └── OutputError         2   a file that exists, a folder that does not, a disk that is full
    ├── BackendError            3   a framework, device or dtype that is not there, with the extra to install
    └── WeightsError            4   a checkpoint that is unknown, incomplete or does not fit its config
        └── DownloadError       4   the network or the hub failed; what was fetched so far is kept

Messages are one line that names the thing and the remedy; a list of tensors may follow on lines of its own.
"""

from __future__ import annotations


class HemiolaError(Exception):
    """The root: catch this to catch everything Hemiola raises on purpose."""

    exit_code = 1


class InputError(HemiolaError, ValueError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class AudioError(InputError):
    """A file that cannot be read as audio, or audio that is empty, not finite or too large."""


class OutputError(InputError):
    """A result that cannot be written where it should go."""


class BackendError(HemiolaError):
    """A framework, device or dtype that this machine does not have."""

    exit_code = 3


class WeightsError(HemiolaError):
    """A checkpoint that is unknown, incomplete, or does not fit its own config."""

    exit_code = 4


class DownloadError(WeightsError):
    """The network or the hub failed while weights were being fetched."""
