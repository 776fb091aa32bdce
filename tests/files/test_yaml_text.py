"""YAML is read as version 1.2 says; what versions read differently, and what says nothing, is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagmoe.config import LossConfig, load_config, packaged_recipes
from tagmoe.errors import ConfigError
from tagmoe.files.yaml_text import read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("0x1f", 31),
        ("0o17", 15),
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("''", ""),
        ("'yes'", "yes"),
        ('"010"', "010"),
        ("2026-11-30", "2026-11-30"),
        ("1.2.3", "1.2.3"),
        ("a: 1:30pm", {"a": "1:30pm"}),
        ("", None),
        ("# nothing", None),
        ("{a: [1, two]}", {"a": [1, "two"]}),
        ("- &x {k: 1}\n- {<<: *x, l: 2}", [{"k": 1}, {"k": 1, "l": 2}]),
    ],
)
def test_values_of_the_core_schema(text: str, value: Any) -> None:
    found = read_yaml(text, "It")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: yes", "'yes' means different things"),
        ("a: Off", "'Off' means"),
        ("a: [on]", "'on' means"),
        ("a: 010", "'010' means"),
        ("a: 0_7", "'0_7' means"),
        ("a: 1:30", "'1:30' means"),
        ("a: 1_000", "'1_000' means"),
        ("a: 190:20:30.15", "means different"),
        ("a: 0b11", "'0b11' means"),
        ("a: None", "write null"),
        ("yes: 1", "'yes' means"),
        ("a: 1\nb: 2\na: 3", r"'a' is given twice \(line 3\)"),
        ("s:\n  k: 1\n  k: 2", "'k' is given twice"),
        ("moe:\n#  top_k: 1\nseed: 1", "'moe' has no value; write null"),
        ("{a: , b: 1}", "'a' has no value"),
        ("a: [", "cannot be read"),
        ("a: !!python/object:os.system x", "cannot be read"),
        ("a: \x00", "cannot be read"),
        ("[" * 5000, "cannot be read"),
    ],
)
def test_what_is_ambiguous_or_empty_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_yaml(text, "The file 'x'")
    assert str(caught.value).startswith("The file 'x' ")
    assert "\n" not in str(caught.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_what_is_written_is_read_as_it_was(value: Any) -> None:
    assert read_yaml(write_yaml(value), "It") == value


@pytest.mark.parametrize(
    "text", ["1e3", "None", "yes", "010", "1:30", "1_0", "0o7", "~", "", "null", "2026-11-30", "<<", "\xe9\u2028x"]
)
def test_a_text_that_looks_like_something_else_stays_a_text(text: str) -> None:
    assert read_yaml(write_yaml({"output_dir": text, text: [text]}), "It") == {"output_dir": text, text: [text]}


@pytest.mark.parametrize("name", sorted(packaged_recipes()))
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("moe=", "gives no value; write null"),
        ("optimizer.lr=yes", "'yes' means different things"),
        ("optimizer.lr=true", "'optimizer.lr' is true; give a number above 0"),
        ("save_every=010", "'010' means"),
        ("save_every=1:30", "'1:30' means"),
        ("dense=None", "write null"),
        ("loss={lambda_align: 1, lambda_align: 2}", "given twice"),
    ],
)
def test_settings_are_read_so(name: str, override: str, said: str) -> None:
    path = packaged_recipes()[name]
    with pytest.raises(ConfigError, match=said):
        load_config(path, [override])


@pytest.mark.parametrize("name", sorted(packaged_recipes()))
def test_without_them_every_recipe_is_read(name: str) -> None:
    assert load_config(packaged_recipes()[name]).output_dir


def test_a_number_for_a_switch_and_the_reverse() -> None:
    with pytest.raises(ValueError, match="no switch"):
        LossConfig(edit_weight=True)
