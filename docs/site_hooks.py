"""What mkdocs asks of us: parts of pages that are made from the code, and files of the repository that become pages.

A page says `<!-- made: WHAT … -->` where a part belongs; `PARTS` has what there is. So nothing that the code says is
copied into a page. Links of included files lead to the pages of the site.
"""

import ast
import contextlib
import functools
import inspect
import io
import json
import pathlib
import pkgutil
import posixpath
import re
import subprocess
import sys

import simclr_jax
from simclr_jax import __main__ as commands
from simclr_jax.augment.recipe import Recipe
from simclr_jax.commands import command_line, config_files
from simclr_jax.models.network import Head, Network
from simclr_jax.runtime.config import flatten

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = "benchmarks/results"
SHOWN = (".png", ".json", ".jsonl", ".sh", ".txt")  # files of the results that the site has, too
# Files that are pages of another name: README.md says in short what the first page says.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/RESULTS.md": "measurements.md",
    "configs": "recipes.md",
    "configs/default.py": "configuration.md",
}
# Configs of commands that read a run, in the order of the page.
PROBES = ("linear", "knn", "lbfgs", "features", "diagnose", "pictures", "finetune", "linear_augmented")
# Recipes, the ones to begin with first.
RECIPES = ("quickstart", "imagefolder", "cifar10", "cifar10_resnet50", "stl10", "imagenet", "imagenet_v2")

_MADE = re.compile(r"^<!-- made: (.+?) -->$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def on_config(config):
    """Takes our own stand-in for a worker, which the search needs in pages that are opened from files."""
    config.extra["polyfills"] = ["offline_search.js"]


def on_files(files, config):
    """Adds the pictures and figures that the page of all measurements links to."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / RESULTS).rglob("*")):
        if path.suffix in SHOWN:
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Makes the parts that a page asks for, and turns links that lead out of docs/ into links of the site."""
    made = _MADE.sub(lambda found: part(found[1]), markdown)
    return with_links_of_the_site(made, f"docs/{page.file.src_uri}")


def part(asked):
    """Returns the Markdown of `<!-- made: WHAT … -->`."""
    what, *more = asked.split()
    return PARTS[what](*more)


def include(name):
    """Returns a file of the repository, without its title, its links as seen from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\A# .*\n+", "", text)
    folder = posixpath.dirname(name)

    def seen_from_docs(found):
        link = found[1]
        if "://" in link or link.startswith("#"):
            return found[0]
        return f"]({posixpath.relpath(posixpath.join(folder, link), 'docs')})"

    return _LINK.sub(seen_from_docs, text)


def with_links_of_the_site(markdown, source):
    """Returns Markdown whose links to files of the repository lead to pages of the site, if there are such pages.

    Args:
      markdown: of a page; code is left alone.
      source: the page's file, as seen from the repository.
    """
    folder = posixpath.dirname(source)

    def turned(found):
        link, _, anchor = found[1].partition("#")
        target = posixpath.normpath(posixpath.join(folder, link)) if link and "://" not in link else ""
        if not target or target.startswith("docs/"):
            return found[0]
        if target.startswith("configs/") and target not in PAGES:
            page, anchor = "recipes.md", target.removeprefix("configs/").removesuffix(".py")
        elif target.startswith(RESULTS) and (ROOT / target).is_file():
            page = target
        elif target in PAGES:
            page = PAGES[target]
        else:
            return "]()"  # a folder or a program: not of the site
        page = posixpath.relpath(page, posixpath.relpath(folder, "docs"))
        return f"]({page}{'#' * bool(anchor)}{anchor})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    turned_parts = [text if text.startswith("```") else _LINK.sub(turned, text) for text in parts]
    return re.sub(r"\[([^\]]+)\]\(\)", r"\1", "".join(turned_parts))


# The configs


def recipes():
    """Returns a table of the shipped configs, and what the docstring of each says."""
    names = [*RECIPES, *(name for name in config_files.names() if name not in RECIPES)]
    table = ["| `--config=` | what |", "|---|---|"]
    table += [f"| [`{name}`](#{name}) | {docstring(name)[0]} |" for name in names]
    return "\n".join([*table, "", *(recipe(name) for name in names)])


def recipe(name):
    """Returns the section of one config."""
    changed = [f"| `{key}` | `{as_typed(value)}` |" for key, value in changes(name).items()]
    table = ["| key | value |", "|---|---|", *changed]
    folded = ['??? note "Keys that differ from the default"', *(f"    {line}" for line in table)]
    return "\n".join([f"\n## {name} {{ #{name} }}\n", *docstring(name), "", *folded, ""])


def changes(name):
    """Returns {key: value} of what a config sets otherwise than default.py."""
    default = flatten(config_files.load("default"))
    return {key: value for key, value in flatten(config_files.load(name)).items() if value != default[key]}


def docstring(name):
    """Returns what a config's file says of it as Markdown, the first line apart: [first, the rest]."""
    text = ast.get_docstring(ast.parse((config_files.FOLDER / f"{name}.py").read_text(encoding="utf-8")))
    first, _, rest = text.partition("\n\n")
    return [" ".join(first.split()), markdown_of(rest)]


def markdown_of(text):
    """Returns a docstring's paragraphs as Markdown: what is indented is a command."""
    made = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            lines = [re.sub(r"\s{2,}\((.*)\)$", r"  # \1", line.strip()) for line in paragraph.splitlines()]
            made.append("\n".join(["```sh", *lines, "```"]))
            continue
        paragraph = with_code(paragraph)
        # Time, Result and Recipe begin paragraphs of their own.
        paragraph = re.sub(r"(?:^|\n|(?<=\. ))(Time|Result|Recipe):", r"\n\n**\1:**", paragraph)
        made.append(paragraph.strip())
    return "\n\n".join(made)


def keys(name):
    """Returns a table of the keys of a config for each section, in the order of its file."""
    sections = {}
    for key, value in in_order(name):
        sections.setdefault(key.rpartition(".")[0], []).append((key, value))
    made, words = [], comments_of(name)
    for section, pairs in sections.items():
        made += [f"\n### {section} {{ #{section.replace('_', '-')} }}\n"] if section else [""]
        made += key_table(pairs, words)
    return "\n".join(made)


def probe_keys():
    """Returns tables of the keys of every command that reads a run: what all have, and what each has besides."""
    common = dict(in_order("probe"))
    made = ["\n### All of them { #probe }\n", *key_table(common.items(), comments_of("probe"))]
    for name in PROBES:
        own = [(key, value) for key, value in in_order(name) if key not in common]
        if own:
            command = name.replace("_", "-")
            made += [f"\n### {command} {{ #{command} }}\n", *key_table(own, comments_of(name))]
    return "\n".join(made)


def in_order(name):
    """Returns [(key, value)] of a config as its file, and those that it starts from, have them; not by the alphabet."""
    config = config_files.load(name)
    order = list(_keys_of(name))
    return sorted(flatten(config).items(), key=lambda pair: order.index(pair[0]))


def _keys_of(name):
    """Yields the keys that a file sets, after those of the configs that it starts from."""
    text = (config_files.FOLDER / f"{name}.py").read_text(encoding="utf-8")
    for base in re.findall(r"^from simclr_jax\.configs import (\w+)", text, re.MULTILINE):
        yield from _keys_of(base)
    yield from re.findall(r"^ +config\.([\w.]+) = ", text, re.MULTILINE)


def comments_of(name):
    """Returns {key: what it is}: the comment behind it, or what the class says that declares it."""
    words = {}
    for section, declared in (("augment", Recipe), ("model", Network), ("head", Head)):
        listed = inspect.getdoc(declared).partition("Attributes:\n")[2].partition("\n\n")[0]
        for key, text in re.findall(r"^  (\w+): (.*?)(?=^  \w|\Z)", listed, re.DOTALL | re.MULTILINE):
            words[f"{section}.{key}"] = " ".join(text.split())
    for file in ("default", name):  # probes have some of the keys of pretraining
        found = command_line.comments(config_files.FOLDER / f"{file}.py")
        words |= {key: text for key, text in found.items() if text}
    return words


def key_table(pairs, comments):
    """Returns the lines of a table of keys."""
    rows = [f"| `{key}` | `{as_typed(value)}` | {escaped(comments.get(key, ''))} |" for key, value in pairs]
    return ["| key | default | what it is |", "|---|---|---|", *rows]


def as_typed(value):
    """Returns a value as one would type it."""
    if isinstance(value, float):
        return f"{value:g}" if value % 1 or abs(value) >= 1e5 else f"{value:.1f}"
    return str(value) if value != "" else '""'


def escaped(text):
    """Returns a text in which Markdown finds no markup, but for `code` and links to pages."""
    text = re.sub(r"([|*_<])", r"\\\1", text)
    text = re.sub(r"`+[^`]+`+", lambda code: re.sub(r"\\([*_<])", r"\1", code[0]), text)
    return re.sub(r"\bdocs/(\w+)\.md", r"[\1](\1.md)", text)


def with_code(text):
    """Returns a text in which flags and ``names`` are `code`."""
    parts = re.split(r"(`+[^`]+`+)", text)
    for place, part in enumerate(parts):
        if place % 2:
            flags = part.strip("`").split()
            each = flags if all(flag.startswith("--") for flag in flags) else [" ".join(flags)]
            parts[place] = " ".join(f"`{flag}`" for flag in each)
        else:
            parts[place] = re.sub(r"(?<![\w-])--[a-z][^\s,;)]*[^\s,;).:]", r"`\g<0>`", part)
    return "".join(parts)


def probe(name):
    """Returns what the docstring of a probe's config says, as a section's text."""
    first, rest = docstring(name)
    return f"{first}\n\n{rest}"


# The commands


def command_list():
    """Returns a section for each command: how it is called, what it does, an example, its own flags."""
    flags = flags_of_all()
    return "\n".join(section_of(name, text, flags[name]) for name, text in described().items())


def described():
    """Returns {command: what the list of commands says of it}."""
    return {name: commands.about(name) for name in commands.COMMANDS}


def section_of(name, text, flags):
    """Returns the section of one command."""
    usage = [line for line in text.splitlines() if line.startswith("simclr-jax")]
    words = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    example = " ".join(words).partition("Example: ")[2]
    about = " ".join(words).partition("Example: ")[0].strip()
    rows = [f"| `{flag}` | {escaped(meaning)} |" for flag, meaning in flags]
    return "\n".join(
        [f"\n## {name} {{ #{name} }}\n", "```text", *usage, "```", "", with_code(about), ""]
        + (["```sh", example, "```", ""] if example else [])
        + (["| flag | what it does |", "|---|---|", *rows, ""] if rows else [])
    )


@functools.cache
def flags_of_all():
    """Returns {command: [(flag, what its --help says)]}, but for the flags that all have.

    A process of its own asks for them, since commands set up logging.
    """
    made = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(made.stdout)


def print_flags():
    """Prints what `flags_of_all` returns: the --help of each command, with the flags of the one before taken away."""
    from absl import flags

    common = {"--version", "--[no]quiet", "--[no]verbose", "--log", "--config"}
    found = {}
    for name, (file, *which) in commands.COMMANDS.items():
        shown, sys.argv, before = io.StringIO(), [name, "--help"], set(flags.FLAGS)
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            pkgutil.resolve_name(f"simclr_jax.commands.{file}:main")(*which)
        text = shown.getvalue().partition("\nconfig keys, with")[0].partition("\nflags:\n")[2]
        rows = re.findall(r"^  (--[^\s:=]+)(?:=\S+)?: (.*)$", text, re.MULTILINE)
        found[name] = [(flag, meaning) for flag, meaning in rows if flag not in common]
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
    json.dump(found, sys.stdout)


def common_words():
    """Returns what the list of commands says of all of them: RUN, NAME, flags, exit codes."""
    paragraphs = inspect.cleandoc(commands.__doc__).split("\n\n")[1:]
    return with_code("\n\n".join(text for text in paragraphs if not text.startswith("simclr-jax")))


# The library


def reference():
    """Returns the directives by which mkdocstrings describes each public name."""
    named = [getattr(simclr_jax, name) for name in sorted(simclr_jax.__all__)]
    return "\n\n".join(
        f"::: {thing.__module__}.{thing.__qualname__}" for thing in named if hasattr(thing, "__module__")
    )


PARTS = {
    "include": include,
    "recipes": recipes,
    "keys": keys,
    "probe_keys": probe_keys,
    "probe": probe,
    "commands": command_list,
    "common_words": common_words,
    "reference": reference,
}

if __name__ == "__main__":
    print_flags()
