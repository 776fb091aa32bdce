"""The shared macros: what comes from outside is escaped, and what they make is well formed."""

from __future__ import annotations

import jinja2
import pytest
from support.html_page import Page

from tagmoe.report.pages import Tile, page_environment

EVIL = "<script>alert('x')</script>\"&"


def page(body: str, **values: object) -> Page:
    """A page of the shared head and footer around a body that uses the macros."""
    text = (
        '{% import "macros.j2" as page %}{% call page.head(evil) %}.own { color: red; }{% endcall %}'
        + body
        + "{% call page.footer() %}{{ evil }}{% endcall %}"
    )
    return Page(page_environment("tagmoe.report").from_string(text).render(evil=EVIL, **values))


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    "body",
    [
        "{{ page.tile(evil, evil, evil, evil) }}",
        "{{ page.tiles([(evil, evil, evil)]) }}",
        "{{ page.facts([(evil, evil)]) }}",
        "{{ page.contents([(evil, evil)]) }}",
        "{% call page.section(evil, evil) %}{{ evil }}{% endcall %}",
        "{% call page.table([evil, 'n'], ['n']) %}<tr><td>{{ evil }}</td></tr>{% endcall %}",
        "{% call page.figure({'reason': evil}) %}{% endcall %}",
        "{% call page.figure(evil) %}{{ evil }}{% endcall %}",
        "{{ page.picture(evil, evil, evil) }}",
        "{{ page.picture(none, evil, blank=evil) }}",
        "{{ page.expert(0, evil) }}",
    ],
)
def test_what_comes_from_outside_is_escaped(body: str) -> None:
    made = page(body)
    assert "script" not in made.names
    assert "".join(made.visible).count(EVIL) >= 3
    assert ".own" in made.text
    assert "prefers-color-scheme: dark" in made.text


def test_a_tile_and_a_fact_without_a_value_are_left_out() -> None:
    made = page("{{ page.tiles([tile]) }}{{ page.facts([('kept', ''), ('seed', 3)]) }}", tile=Tile("3", "cases"))
    assert made.count("div", "tile") == 1
    assert made.names.count("span") == 1
    assert made.names.count("dt") == 1


def test_numbers_stand_to_the_right() -> None:
    assert page("{% call page.table(['a', 'b', 'c'], ['b', 'c']) %}{% endcall %}").count("th", "n") == 2


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        page("{{ page.tile(nothing, 'x') }}")
