"""Print the README with absolute links: the package index shows it without the files beside it.

    python tools/release_readme.py https://github.com/OWNER/tagmoe v0.2.0 > README.md

The code host must have GitHub's paths: ADDRESS/blob/TAG/FILE shows a page, ADDRESS/raw/TAG/FILE gives a picture.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def absolute(text: str, address: str, tag: str) -> str:
    """The text with every relative link and picture at its public address; others and links inside stay."""

    def at_address(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        return f"{mark}[{words}]({address.rstrip('/')}/{'raw' if mark else 'blob'}/{tag}/{target})"

    return LINK.sub(at_address, text)


if __name__ == "__main__":
    print(absolute(README.read_text(encoding="utf-8"), *sys.argv[1:3]), end="")
