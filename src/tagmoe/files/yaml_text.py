"""Read YAML as its version 1.2 says, and refuse what the versions read differently or what says nothing.

PyYAML reads version 1.1: there `1:30` is 90, `010` is 8, `yes` is true, and of a key given twice the first value
is dropped in silence. A section whose lines are all comments reads as null, which may switch a whole part off.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from tagmoe.errors import ConfigError
from tagmoe.sentences import cut, reason_of

MOST_DIGITS = 1000
FLOAT = r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
# Tag, plain texts of version 1.2's core schema, their first characters. The first that fits counts.
RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", FLOAT, "-+.0123456789"),
    ("merge", "<<", "<"),
)
AMBIGUOUS = (
    (r"(?i:yes|no|on|off)", "true or false, or put it in quotes"),
    (r"(?i:none|nil)", "null, or put it in quotes"),
    (r"[-+]?0[0-9_]+(?:\.[0-9_]*)?|[-+]?0b[01_]+", "a number without a leading zero"),
    (r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?", "one number, or put it in quotes"),
    (r"[-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?", "the digits without _"),
)


def read_yaml(text: str, title: str) -> Any:
    """The value of a YAML text; None for a text without any. Errors begin with `title`.

    Raises ConfigError for a text that is no YAML, a key that is given twice or has no value, and a plain value that
    YAML 1.1 and 1.2 read differently. The message has the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark is not None else ""
        raise ConfigError(f"{title} cannot be read as YAML: {error.problem}{line}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{title} cannot be read as YAML: {reason_of(error)}.") from None


def write_yaml(value: Any) -> str:
    """Plain data as a YAML text that `read_yaml` reads as it was; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """The safe dumper. It also puts those texts in quotes that only version 1.2 reads as something else."""

    yaml_implicit_resolvers = {key: list(found) for key, found in yaml.SafeDumper.yaml_implicit_resolvers.items()}  # noqa: RUF012


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of version 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise _problem(f"{key.value!r} is given twice", key)
            seen.add(key.value)
            if isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None:
                raise _problem(f"{key.value!r} has no value; write null, or leave it out for the default", value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        if len(text) > MOST_DIGITS:
            raise _problem(f"{cut(text)!r} is a number of {len(text):,} digits", node)
        return int(text, 0)

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        for pattern, instead in AMBIGUOUS if node.style is None else ():
            if re.fullmatch(pattern, node.value):
                raise _problem(f"{node.value!r} means different things in versions of YAML; write {instead}", node)
        return str(self.construct_scalar(node))


def _problem(sentence: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, sentence, node.start_mark)


for _tag, _pattern, _first in RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))
for _tag in ("int", "str"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", getattr(_Loader, f"construct_yaml_{_tag}"))
for _pattern in [pattern for _, pattern, _ in RESOLVERS] + [pattern for pattern, _ in AMBIGUOUS]:
    _Dumper.add_implicit_resolver("tag:yaml.org,2002:other", re.compile(rf"(?:{_pattern})\Z"), None)
