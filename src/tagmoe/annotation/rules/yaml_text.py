"""YAML texts checked against a model, with errors of one sentence."""

from __future__ import annotations

from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tagmoe.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def parse_yaml(text: str, title: str, model: type[Model]) -> Model:
    """The values of a YAML text; errors begin with `title`.

    Raises ConfigError for text that is no YAML, is no mapping, names a key twice, or does not fit the model.
    """
    try:
        data = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{title} cannot be read as YAML: {reason}.") from None
    if not isinstance(data, dict):
        *names, last = model.model_fields
        raise ConfigError(f"{title} is no mapping; it has {', '.join(names)} and {last}.")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{title} has a wrong {place!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}.") from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping names twice: YAML would silently keep the last one only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            value = self.construct_object(key, deep=True)
            if isinstance(value, str) and value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{value!r} is given twice", key.start_mark)
            seen.add(value if isinstance(value, str) else id(key))
        return super().construct_mapping(node, deep)
