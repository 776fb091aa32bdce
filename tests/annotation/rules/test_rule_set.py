"""The rule set: what ships is whole and comes back from its text, and every mistake in a file is one sentence."""

from __future__ import annotations

import pytest

from tagmoe.annotation.rules.rule_set import MAX_BYTES, load_rules, packaged_rules, parse_rules
from tagmoe.errors import ConfigError, TagMoEError, VocabularyError
from tagmoe.tags import TAG_NAMES

GOOD = """
version: "7"
tiers:
  scope: {guidance: one, tags: {local editing: a place}}
  type: {tags: {Object-Editing: a thing}}
examples:
  - {instruction: add a hat, scope: local editing, types: [object editing], preservation: [background preservation]}
"""


def test_the_packaged_rules_have_words_for_every_tag():
    rules = packaged_rules()
    assert list(rules.guidance) == list(TAG_NAMES)
    assert all(rules.guidance.values())
    assert all(rules.tiers.values())
    assert len(rules.examples) >= 3


def test_rules_come_back_from_their_text():
    for rules in (packaged_rules(), parse_rules(GOOD, "good")):
        assert parse_rules(rules.to_yaml(), "again") == rules


def test_the_digest_is_of_the_content_and_not_of_the_version():
    rules = parse_rules(GOOD, "good")
    assert parse_rules(GOOD.replace('"7"', '"8"'), "good").digest == rules.digest
    changed = rules.with_guidance({"local editing": "another place"}, "8")
    assert (changed.version, changed.guidance["local editing"]) == ("8", "another place")
    assert changed.digest != rules.digest
    assert changed.guidance["object editing"] == rules.guidance["object editing"]


@pytest.mark.parametrize(
    ("old", "new", "error", "part"),
    [
        ("local editing: a place", "locla editing: x", VocabularyError, "did you mean 'local editing'"),
        ("local editing: a place", "object editing: x", VocabularyError, "its tier is 'type'"),
        ("local editing: a place", "local editing: x, Local-Editing: y", ConfigError, "twice"),
        ("  type:", "  scope:", ConfigError, "'scope' is given twice"),
        ("  type:", "  kind:", ConfigError, "has the tier 'kind'; the tiers are scope, type, preservation"),
        ('version: "7"\n', "", ConfigError, "'version' is missing"),
        ('version: "7"', "version: 7", ConfigError, "'version' is 7, which must be a text"),
        ('version: "7"', 'version: "7"\nextra: 1', ConfigError, "'extra' is unknown"),
        ("guidance: one", "guidance: [1]", ConfigError, "'tiers.scope.guidance' is [1], which must be a text"),
        ("types: [object editing]", "types: []", VocabularyError, "an edit has at least one type"),
        ("scope: local editing, types", "scope: nowhere, types", VocabularyError, "'nowhere' is not a tag"),
        ("tiers:", "tiers: [", ConfigError, "cannot be read as YAML"),
        ("tiers:", "tiers: !!python/object:os.system {}\nx:", ConfigError, "cannot be read as YAML"),
    ],
)
def test_a_mistake_is_one_sentence(old, new, error, part):
    assert old in GOOD
    with pytest.raises(error) as caught:
        parse_rules(GOOD.replace(old, new, 1), "mine.yaml")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_rules(tmp_path):
    for name, data in (("binary", b"\xff\xfe\x00"), ("list", b"- a"), ("large", b"#" * (MAX_BYTES + 1))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError):
            load_rules(tmp_path / name)
    with pytest.raises(TagMoEError, match="cannot be read"):
        load_rules(tmp_path / "none")
