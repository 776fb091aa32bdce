"""Every error a user can meet, in one tree. The command line prints the message and exits with `exit_code`.

TagMoEError                 1   what was wrong (with its value), what is allowed, what to do
|-- UsageError              2   a bad argument, instruction, size or path
|   |-- ConfigError         2   an unknown or invalid setting in YAML or --set
|   |-- VocabularyError     2   an unknown tag, or tags that break a rule
|   `-- ImageError          2   a file that is no usable picture
|-- MissingError            3   weights or an optional dependency are not there (names the install line)
|-- CheckpointError         1   a model folder or checkpoint is incomplete or damaged
|-- DataError               1   a store or a source of data is damaged, of another version, or in use
|-- TrainingError           1   a run cannot go on (NaN, mismatch on resume)
`-- ResultError             1   a result or recording is damaged, of another version, or does not belong to the others
"""

from __future__ import annotations

from tagmoe.sentences import cut_values


class TagMoEError(Exception):
    """Base of all errors meant for the user: printed as one sentence, never as a traceback.

    A value that the message quotes may be a whole file, so every value is cut here, once for all errors.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(cut_values(message))


class UsageError(TagMoEError):
    """A bad argument, instruction, size or path."""

    exit_code = 2


class ConfigError(UsageError):
    """An unknown or invalid setting in a YAML file or in --set."""


class VocabularyError(UsageError):
    """An unknown tag, or tags that break a rule of the vocabulary."""


class ImageError(UsageError):
    """A file that is no usable picture."""


class MissingError(TagMoEError):
    """Weights or an optional dependency are not there; the message names the command that gets them."""

    exit_code = 3


class CheckpointError(TagMoEError):
    """A model folder or a checkpoint is incomplete or damaged."""


class DataError(TagMoEError):
    """A store or a source of data is damaged, of another version, or being written by another process."""


class TrainingError(TagMoEError):
    """A training run cannot go on: NaN, or a checkpoint of another configuration."""


class DivergedError(TrainingError):
    """A loss, gradient or weight is not finite."""


class ResultError(TagMoEError):
    """A result or recording file is damaged, of another version, or does not belong with the others."""


def first_error(group: BaseExceptionGroup) -> BaseException:
    """The error that stopped a group of tasks; an error with a sentence for the user comes before any other."""
    error: BaseException = group.subgroup(TagMoEError) or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
