"""What mkdocstrings asks of us: a docstring's "Example:" is a section of code, as "Examples:" is one to it."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section before docstrings are parsed."""

    def on_instance(self, *, obj, **_):
        """Of each object that has a docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
