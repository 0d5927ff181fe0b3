"""The pages of the documentation: which there are, and the commands and scripts in them."""

import itertools
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if path.parent.name != "images"]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", DOCS / "images" / "README.md", *PAGES]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path, language):
    return [text for found, text in BLOCK.findall(path.read_text()) if found == language]


def commands_of(text):
    """Yields [simclr-jax's arguments] of each call in a shell script, and of its other programs [program, …]."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        words = shlex.split(line.strip().replace("; do", " ; do"), comments=True)
        calls = [list(call) for apart, call in itertools.groupby(words, lambda word: word == ";") if not apart]
        for call in calls:
            inner = next((word for word in call if word.startswith("--command=simclr-jax ")), None)
            yield shlex.split(inner.partition("=")[2]) if inner else call
