"""The vocabulary: the release's order, the tiers, and helpful errors."""

from __future__ import annotations

import pytest

from tagmoe.errors import VocabularyError
from tagmoe.tags import TAG_NAMES, TAGS, TIERS, index, tag

RELEASE_ORDER = [
    "local editing",
    "global editing",
    "multi region editing",
    "viewpoint editing",
    "content customization",
    "style customization",
    "object editing",
    "attribute editing",
    "style transfer",
    "pose editing",
    "background editing",
    "illumination editing",
    "structure preservation",
    "background preservation",
    "identity preservation",
    "face preservation",
    "style preservation",
    "image generation",
]


def test_order_is_the_releases() -> None:
    assert list(TAG_NAMES) == RELEASE_ORDER
    assert [item.index for item in TAGS] == list(range(18))


def test_tiers_are_contiguous_ranges() -> None:
    ranges = {tier: [item.index for item in TAGS if item.tier == tier] for tier in TIERS}
    assert ranges == {
        "scope": list(range(6)),
        "type": list(range(6, 12)),
        "preservation": list(range(12, 17)),
        "generation": [17],
    }


def test_definitions_are_distinct_sentences() -> None:
    definitions = {item.definition for item in TAGS}
    assert len(definitions) == len(TAGS)
    assert all(text.endswith(".") and len(text.split()) > 5 for text in definitions)


@pytest.mark.parametrize("spelling", ["Multi-Region Editing", " multi_region  editing ", "MULTI REGION EDITING"])
def test_spelling_is_free(spelling: str) -> None:
    assert index(spelling) == 2
    assert tag(spelling) is TAGS[2]


def test_unknown_tag_suggests_a_close_one() -> None:
    with pytest.raises(VocabularyError, match="did you mean 'local editing'") as caught:
        tag("local edting")
    assert '"tagmoe info tags"' in str(caught.value)


def test_unknown_tag_like_none_suggests_nothing() -> None:
    with pytest.raises(VocabularyError) as caught:
        index("qqqq")
    assert "did you mean" not in str(caught.value)
    assert "'qqqq'" in str(caught.value)
