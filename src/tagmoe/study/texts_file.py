"""The wording of the page in one language: a YAML file, so that consent and questions can be edited and translated."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from tagmoe.config.describe import wrong_field
from tagmoe.config.part import Part
from tagmoe.errors import UsageError
from tagmoe.sentences import reason_of

PACKAGED = ("en", "de")
"""Languages whose files lie in the package."""


class Question(Part):
    """A criterion: its name, and what is asked."""

    name: str = Field(min_length=1, max_length=60)
    question: str = Field(min_length=1, max_length=300)


class Texts(Part):
    """All words of the page. language: a code of BCP 47, such as de. criteria: by id, in the order they are asked."""

    language: str = Field(pattern=r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
    name: str
    title: str
    consent: tuple[str, ...] = Field(min_length=1)
    criteria: dict[str, Question] = Field(min_length=1)
    words: dict[str, str]
    errors: dict[str, str]


def texts_of(name: str) -> Texts:
    """The texts of a packaged language, or of a YAML file. Raises UsageError for what is neither, or is incomplete."""
    if name in PACKAGED:
        text, shown = (files("tagmoe.study") / "texts" / f"{name}.yaml").read_text(encoding="utf-8"), name
    else:
        try:
            text, shown = Path(name).read_text(encoding="utf-8"), name
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"The language {name!r} is none of {', '.join(PACKAGED)}, and no file that can be read "
                f"({reason_of(error)}); give a YAML file such as those in the folder texts of a study."
            ) from None
    try:
        found = Texts.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise UsageError(f"The texts in {shown!r} are not complete: {wrong_field(error, Texts)}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"The texts in {shown!r} are no YAML ({reason_of(error)}); mend the file.") from None
    if name != PACKAGED[0]:
        first = texts_of(PACKAGED[0])
        for part in ("words", "errors"):
            wanted, given = set(getattr(first, part)), set(getattr(found, part))
            if wanted != given:
                word = sorted(wanted ^ given)[0]
                how = "lacks" if word in wanted else "has"
                other = "" if word in wanted else ", which no page shows"
                raise UsageError(f"The texts in {shown!r} are not complete: {part} {how} {word!r}{other}.")
    return found


def read_languages(names: list[str]) -> dict[str, Texts]:
    """{language: texts}. Raises UsageError for a language that comes twice, or criteria that are not the same."""
    found: dict[str, Texts] = {}
    for name in names:
        texts = texts_of(name)
        if texts.language in found:
            raise UsageError(f"The language {texts.language!r} comes twice; give each once.")
        first = next(iter(found.values()), texts)
        if list(texts.criteria) != list(first.criteria):
            raise UsageError(
                f"The criteria of {name!r} are {', '.join(texts.criteria)}, and those of the first language are "
                f"{', '.join(first.criteria)}; give the same ids in the same order."
            )
        found[texts.language] = texts
    if not found:
        raise UsageError("No language is given; give at least one, such as en.")
    return found
