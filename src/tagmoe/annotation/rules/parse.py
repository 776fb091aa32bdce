"""YAML texts checked against a model, with errors of one sentence."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tagmoe.config.describe import wrong_field
from tagmoe.errors import ConfigError
from tagmoe.files.yaml_text import read_yaml

Model = TypeVar("Model", bound=BaseModel)


def parse_yaml(text: str, title: str, model: type[Model]) -> Model:
    """The values of a YAML text; errors begin with `title`.

    Raises ConfigError for text that is no YAML, is no mapping, names a key twice, or does not fit the model.
    """
    data = read_yaml(text, title)
    if not isinstance(data, dict):
        *names, last = model.model_fields
        raise ConfigError(f"{title} is no mapping; it has {', '.join(names)} and {last}.")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{title} cannot be used: {wrong_field(error, model)}.") from None
