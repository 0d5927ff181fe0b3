"""What the names of folders say: which hold a split, which a class, and where that cannot be told. Names alone."""

import collections
import dataclasses
import re
import shlex
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import NamedTuple

Folders = tuple[str, ...]  # the names of the folders on the way to an image, the outermost first

NAMED = 10  # names in a line
_SPELLINGS = {
    "train": ("train", "training", "trn", "trainval"),
    "validation": ("validation", "valid", "val", "vld", "dev", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "holdout", "heldout"),
}
_ROLE_OF = {word: role for role, words in _SPELLINGS.items() for word in words}
# Words that say that there are images, and words that say which form of them: a folder called so is no class.
_IMAGES = {"image", "img", "picture", "pic", "photo", "frame", "file", "jpg", "jpeg", "png", "dataset", "jpegimage"}
_IMAGES |= {f"{word}s" for word in _IMAGES} | {"data"}
_FORMS = {"set", "split", "subset", "folder", "px", "raw", "original", "full", "resized", "cropped", "small", "all"}
_FORMS |= {"unknown", "unlabeled", "unlabelled"}
_FILL = "|".join(sorted(_IMAGES | _FORMS, key=len, reverse=True))
_ROLE = re.compile(rf"(?:{_FILL})*({'|'.join(sorted(_ROLE_OF, key=len, reverse=True))})(?:{_FILL})*")
_BARE = {"unlabeled", "unlabelled", "unsup", "unsupervised", "nolabel", "nolabels"}  # images without a class
_BESIDE = _BARE | {"extra", "extras", "pred", "prediction", "predictions"}
_YEAR, _MONTH = r"(?:19|20)\d\d", r"(?:0?[1-9]|1[0-2])"
_DATE = re.compile(
    rf"{_YEAR}([-_. ]?{_MONTH}([-_. ]?\d\d?)?)?(\D.*)?|\d\d?[-_. ]\d\d?[-_. ]{_YEAR}(\D.*)?"  # 2023, 2023-06-30 coast
    r"|(\d+[-_. ])?(jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|january|february|march|april|may|june|july|august"
    rf"|september|october|november|december)([-_. ]?{_YEAR})?"  # 06 June
    r"|\d{3}(canon|nikon|msdcf|apple|media|gopro|olymp|ricoh|_pana|_fuji)",  # of a camera
    re.IGNORECASE,
)
_PART = re.compile(
    r"(.*[\W_])?(part|batch|chunk|shard|fold|folder|vol|volume|disk|session|archive|day|week)[\W_]*\d+", re.IGNORECASE
)


class Description(NamedTuple):
    """What of a source was understood, and what of it is left out ("" where nothing is), in a line each."""

    understood: str
    left_out: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How folders are read.

    Attributes:
      place: the split and the class of the images that lie in a folder; the class is "" where they have no label. A
        folder that has no place lies beside the splits.
      top: the folder in which those of the splits or classes lie.
      splits: {name on disk: split}; {} where all of it is train.
    """

    place: dict[Folders, tuple[str, str]]
    top: Folders
    splits: dict[str, str]


def split_of(name: str) -> str | None:
    """Returns the split, "train", "validation" or "test", that a name spells (``Train_Set``, ``val2017``), or None."""
    role, rest = _spelt(name)
    return None if rest else role


def read(
    root: str, counts: Mapping[Folders, int], *, labels: str = "", named: Sequence[str] = (), table: str = "FILE"
) -> Layout:
    """Finds out what the folders below a root are.

    Splits are recognised by their names, in any case, whatever numbers and words like "set" or "images" go with them;
    and by names that differ in them alone, as ``seg_train`` and ``seg_test``. Folders that hold but one other folder
    are entered where they lead to splits, or where their names say no more than that there are images.

    Args:
      root: for messages.
      counts: {folders: how many images lie in the last one itself}, without folders that hold none.
      labels: "folders" and "" read class folders, "" only where they are clear; anything else reads none.
      named: the names that the user gives to the splits train, validation and test, "" for one that he does not name. A
        folder called so is a split of that very name.
      table: a CSV file that may hold labels, for messages.

    Raises:
      ValueError: it cannot be told what the folders are, with the keys that tell it; or two of them are one split.
    """
    tree = _Tree(root, counts)
    top = tree.top(named)
    splits = _splits(tree, top, labels, named)
    # A folder that is alone in one split and not in another is a class.
    siblings = {
        name for split in splits for name in tree.children.get((*top, split), {}) if not tree.only((*top, split))
    }
    bases = {name: tree.inner((*top, name), siblings) for name in splits} or {"": top}
    place = {}
    for folders in counts:
        on_disk = "".join(folders[len(top) : len(top) + 1]) if splits else ""
        if on_disk in bases:
            of_class = folders[len(bases[on_disk]) :][:1] if labels in ("", "folders") else ()
            place[folders] = splits.get(on_disk, "train"), "".join(of_class)
    if not labels:
        _check_classes(tree, place, bases.values(), table)
    return Layout(place, top, splits)


def listed(counts: Mapping[str, int] | Iterable[str], most: int = NAMED) -> str:
    """Returns names, with their counts where there are any, as many as fit in a line."""
    names = [name if name.isprintable() else ascii(name) for name in counts]
    if isinstance(counts, Mapping):
        names = [f"{name} ({count:,})" for name, count in zip(names, counts.values(), strict=True)]
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def flag(key: str, value: str) -> str:
    """Returns the flag that gives a key of the data a value, as it is typed in a shell."""
    return shlex.quote(f"--config.data.{key}={value}")


def understood(splits: Mapping[str, int], class_names: Sequence[str], stored: Mapping[str, str] | None = None) -> str:
    """Returns as text a source's splits, {name: number of images}, what they are stored as, and its classes."""
    known = [*_SPELLINGS, *splits]
    parts = {split: f"{splits[split]:,} {split} images" for split in sorted(splits, key=known.index)}
    parts |= {split: f"{parts[split]} ({name})" for split, name in (stored or {}).items()}
    classes = f"{len(class_names):,} class{'es' * (len(class_names) != 1)}: {listed(class_names)}"
    return f"{listed(parts.values())}; {classes if class_names else 'no labels'}"


class _Tree:
    """The folders that hold images, and those on the way to them."""

    def __init__(self, root: str, counts: Mapping[Folders, int]):
        self.root, self.counts = root, counts
        self.children: dict[Folders, dict[str, int]] = collections.defaultdict(dict)  # with all images below each
        for folders, count in counts.items():
            for depth, name in enumerate(folders):
                siblings = self.children[folders[:depth]]
                siblings[name] = siblings.get(name, 0) + count

    def only(self, folders: Folders) -> Folders | None:
        """Returns the one folder in a folder, or None where there are others or images."""
        names = self.children.get(folders, {})
        return (*folders, *names) if len(names) == 1 and not self.counts.get(folders) else None

    def inner(self, folders: Folders, classes: Container[str] = ()) -> Folders:
        """Enters folders that hold but one, while that one's name says no class, or is the outer one's again."""
        while (child := self.only(folders)) and child[-1] not in classes:
            if not _says_nothing(child[-1]) and child[-1:] != folders[-1:]:
                break
            folders = child
        return folders

    def top(self, named: Sequence[str]) -> Folders:
        """Returns the folder in which those of the splits or classes lie: the root, or one that it holds alone."""
        ends = [()]
        while not self._has_splits(ends[-1], named) and (child := self.only(ends[-1])):
            ends.append(child)
        if self._has_splits(ends[-1], named):
            return ends[-1]
        return self.inner(())

    def _has_splits(self, folders: Folders, named: Sequence[str]) -> bool:
        names = self.children.get(folders, {})
        return bool(_recognised(names) or _chosen(names, named))


def _splits(tree: _Tree, top: Folders, labels: str, named: Sequence[str]) -> dict[str, str]:
    """Returns {name on disk: split} of a folder's folders; {} where they are none."""
    names = tree.children.get(top, {})
    chosen, recognised = _chosen(names, named), _recognised(names)
    splits = {name: role for name, role in recognised.items() if role not in chosen.values()}
    splits |= {name: name for name in chosen}
    if not splits:
        return {}
    for split, count in collections.Counter(splits.values()).items():
        if count > 1:
            twice = [name for name in splits if splits[name] == split]
            words = {"train": "training"}.get(split, split)
            raise ValueError(
                f"folder:{tree.root} has more than one folder of {words} images: {listed(twice)}; keep one, or choose "
                f"one: {flag(f'{split}_split', next(name for name in twice if name != split))}"
            )
    if "train" in chosen.values():
        return splits
    trains = "train" in splits.values()
    flat = not any(tree.children.get(tree.inner((*top, name))) for name in splits)
    others = {name: count for name, count in names.items() if name not in splits}
    unclear = [name for name in others if name not in recognised and not _BESIDE & set(_words(name))]
    if trains and not (flat and unclear):
        return splits
    if labels:
        return splits if labels != "folders" and trains and len(splits) > 1 else {}
    where, loose = "/".join((tree.root, *top)), tree.counts.get(top)
    beside = (f" next to {listed(others)}" if others else "") + (f" and {loose:,} images in no folder" if loose else "")
    largest = max(others or splits, key=names.get)
    raise ValueError(
        f"folder:{where} has {listed({name: names[name] for name in splits})}{beside}: are these splits or "
        "classes? If all are "
        "classes, --config.data.labels=folders; if there are no labels, --config.data.labels=none"
        + (
            f", which reads only {listed(list(splits))}"
            if trains and len(splits) > 1
            else ", which trains on all of them"
        )
        + ("; if not, move" if trains else f"; to train on one, {flag('train_split', largest)}; or move")
        + " folders that are not splits elsewhere"
    )


def _chosen(names: Iterable[str], named: Sequence[str]) -> dict[str, str]:
    """Returns {name on disk: role} of the splits that the user names as they are called on disk."""
    return {name: role for role, name in zip(_SPELLINGS, named, strict=False) if name in names and name != "train"}


def _recognised(names: Iterable[str]) -> dict[str, str]:
    """Returns {name: role} of the names of splits: those that say no more, else those that differ in the role alone."""
    spelt = {name: _spelt(name) for name in names}
    whole = {name: role for name, (role, rest) in spelt.items() if role and not rest}
    if whole:
        return whole
    roles = collections.defaultdict(set)
    for role, rest in spelt.values():
        roles[rest].add(role)
    return {name: role for name, (role, rest) in spelt.items() if role and len(roles[rest] - {None}) > 1}


def _spelt(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Returns the one split that a name speaks of, or None, and what else it says, without numbers."""
    roles, rest = set(), []
    for word in _words(re.sub(r"(?i)(hold|held)[-_ ]out", r"\1out", name)):
        if match := _ROLE.fullmatch(word):
            roles.add(_ROLE_OF[match[1]])
        elif word not in _IMAGES | _FORMS:
            rest.append(word)
    return (roles.pop() if len(roles) == 1 else None), tuple(rest)


def _words(name: str) -> list[str]:
    """Returns the words of a name in lower case: ``seg_trainSet2`` is seg, train, set."""
    return [word.lower() for word in re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))]


def _says_nothing(name: str) -> bool:
    """Whether a folder that is the only one in another can be no class: flower_photos, images, unknown, cifar_train."""
    return bool((_IMAGES | _FORMS) & set(_words(name)) or _spelt(name)[0])


def _check_classes(tree: _Tree, place: Mapping[Folders, tuple[str, str]], bases: Iterable[Folders], table: str) -> None:
    """Raises ValueError where the folders that would be classes may be something else."""
    classes, splits = collections.Counter(), collections.Counter()
    for folders, (split, name) in place.items():
        classes[name] += tree.counts[folders]
        splits[split] += tree.counts[folders]
    del classes[""]
    if not classes:
        return
    inner = [tree.inner((*base, name)) for base in bases for name in tree.children.get(base, {})]
    nested = [(*folders, child) for folders in inner for child in tree.children.get(folders, {})]
    of_images = [name for name in classes if _words(name) and set(_words(name)) <= _IMAGES]
    pairs = set(place.values())
    letters = collections.Counter((split, name.casefold()) for split, name in pairs)
    alike = sorted({name for split, name in pairs if letters[split, name.casefold()] > 1})
    reasons = {
        "some are named like splits": [name for name in classes if split_of(name)],
        "some are named like images without a class": [name for name in classes if _BARE & set(_words(name))],
        "some names describe what is stored, not what is shown": of_images,
        "there are splits inside classes, and they belong outside": [
            "/".join(folders) for folders in nested if split_of(folders[-1])
        ],
        "they look like dates or a camera's folders": _most(classes, _DATE),
        "they look like parts of one data set": _most(classes, _PART),
        "they contain further folders": ["/".join(folders) for folders in nested],
        "there is only one": list(classes) * (len(classes) == 1),
        "they differ only in upper and lower case": alike,
    }
    for why, names in reasons.items():
        if not names:
            continue
        other = of_images[:1] or list(classes) * (len(classes) == 1 and bool(nested))
        within = [folders for folders in inner if other and other[0] in folders]
        path = "/".join((tree.root, *(within[0] if within else ())))
        aside = f"; to read only {listed(other)}, {flag('source', f'folder:{path}')}" if within else ""
        raise ValueError(
            f"folder:{tree.root}, {listed(splits)} images: the folders {listed(classes)} may not be classes: {why} "
            f"({listed(names, 3)}). If they are, --config.data.labels=folders; if not, --config.data.labels=none, or "
            f"{flag('labels', f'csv:{table}')}, with columns file,label{aside}"
        )


def _most(names: Collection[str], pattern: re.Pattern[str]) -> list[str]:
    """Returns the names that are like a pattern, if at least half of all are."""
    like = [name for name in names if pattern.fullmatch(name)]
    return like if 2 * len(like) >= len(names) else []
