"""Every image file is found, whatever its name says; what is none is counted, and nothing is read for ever."""

import io
import os

import pytest
from etils import epath
from PIL import Image

from simclr_jax.augment import decode, pillow
from simclr_jax.data import walk
from support.samples import assert_one_line, noise, png

FORMATS = {
    "JPEG": "jpg jpeg jpe jfif pjpeg pjp",
    "MPO": "mpo",
    "PNG": "png apng",
    "BMP": "bmp",
    "GIF": "gif",
    "WEBP": "webp",
    "TIFF": "tif tiff",
    "AVIF": "avif avifs",
    "JPEG2000": "jp2 j2k j2c jpc jpf jpx",
    "PPM": "ppm pgm pbm pnm",
}


def encoded(kind, suffix):
    image = Image.fromarray(noise(1, side=16)[0]).convert({"pgm": "L", "pbm": "1"}.get(suffix, "RGB"))
    file = io.BytesIO()
    image.save(file, kind, **({"no_jp2": True} if suffix in ("j2k", "j2c", "jpc") else {}))
    return file.getvalue()


def plant(root, *paths, content=None):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(noise(1)[0]) if content is None else content)


def images(root):
    """What is found, as paths, and what is passed over."""
    found = walk.walk(epath.Path(root))
    paths = ["/".join((*folders, name)) for folders, names in found.images for name in names]
    return paths, dict(found.passed_over)


@pytest.mark.parametrize("kind, suffix", [(kind, suffix) for kind in FORMATS for suffix in FORMATS[kind].split()])
def test_a_file_of_each_known_format_is_found_and_decoded_by_suffix_or_without(tmp_path, kind, suffix):
    content = encoded(kind, suffix)
    plant(tmp_path, f"a.{suffix}", f"b.{suffix.upper()}", "c", content=content)
    assert images(tmp_path) == ([f"a.{suffix}", f"b.{suffix.upper()}", "c"], {})
    assert decode.examine(content) == (16, 16)


def test_the_suffixes_are_those_of_the_formats_that_are_decoded():
    assert set(walk.SUFFIXES) == {f".{suffix}" for suffixes in FORMATS.values() for suffix in suffixes.split()}
    of_pillow = {suffix for suffix, kind in Image.registered_extensions().items() if kind in {*pillow.FORMATS, "PNG"}}
    assert of_pillow - set(walk.SUFFIXES) == {".pfm"}  # numbers of 32 bits, without a white


@pytest.mark.parametrize(
    "content", [b"", b"text", b"BMW is a car, not a bitmap", b"P5 is a byte", b"#!/bin/sh", b"PK\3\4", b"RIFF0000WAVE"]
)
def test_a_file_without_suffix_that_begins_as_no_image_is_none(tmp_path, content):
    plant(tmp_path, "README", "ends with.", content=content)
    plant(tmp_path, "a.txt", "b.webp.part")  # whatever lies in it
    assert images(tmp_path) == ([], {"": 2, ".txt": 1, ".part": 1})


def test_only_files_without_suffix_are_opened(tmp_path, monkeypatch):
    plant(tmp_path, "a/1.png", "a/2.jpg", "a/notes.txt", "a/photo", "a/.hidden")
    opened = []
    monkeypatch.setattr(walk, "_begins_as_image", lambda path: opened.append(path.name) or True)
    assert images(tmp_path)[0] == ["a/1.png", "a/2.jpg", "a/photo"] and opened == ["photo"]


def test_what_systems_and_programs_leave_behind_is_passed_over_and_counted(tmp_path):
    plant(tmp_path, "a/1.png", "a/Thumbs.db", "a/@eaDir/1.png/SYNO.jpg", "__MACOSX/a/._1.png", ".cache/5.png")
    plant(tmp_path, "a/.ipynb_checkpoints/1-checkpoint.png", "a/._1.png", ".DS_Store")
    paths, passed_over = images(tmp_path)
    assert paths == ["a/1.png"]
    folders = {"@eaDir/": 1, "__MACOSX/": 1, ".cache/": 1, ".ipynb_checkpoints/": 1}
    assert passed_over == {".db": 1, walk.HIDDEN: 2, **folders}


def test_a_folder_called_like_an_image_is_a_folder(tmp_path):
    plant(tmp_path, "a/1.png", "a/2.png/3.jpg")
    (tmp_path / "a/4.jpg").mkdir()
    (tmp_path / "linked.png").symlink_to(tmp_path / "a")
    assert images(tmp_path)[0] == ["a/1.png", "a/2.png/3.jpg", "linked.png/1.png", "linked.png/2.png/3.jpg"]


def test_names_without_letters_before_the_point_are_hidden(tmp_path):
    plant(tmp_path, ".png", "..png", "a.PNG", "jpg.txt")
    assert images(tmp_path) == (["a.PNG"], {walk.HIDDEN: 2, ".txt": 1})


def test_what_would_never_end_to_be_read_is_passed_over_and_counted(tmp_path):
    plant(tmp_path, "a/1.png", "a/2.png")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    os.mkfifo(tmp_path / "a" / "pipe")
    (tmp_path / "a" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "a" / "gone.png").symlink_to("/no/where.png")  # no image either, but it says so when it is read
    assert images(tmp_path) == (["a/1.png", "a/2.png", "a/gone.png"], {walk.NO_FILE: 3, ".txt": 1})


def test_links_into_one_another_end(tmp_path):
    """Two folders that link to each other; entered for ever, they would have 2^40 paths."""
    plant(tmp_path, "a/1.png", "b/2.png")
    for link in ("c", "d"):
        (tmp_path / "a" / link).symlink_to(tmp_path / "b")
        (tmp_path / "b" / link).symlink_to(tmp_path / "a")
    assert set(images(tmp_path)[0]) == {"a/1.png", "a/c/2.png", "a/d/2.png", "b/2.png", "b/c/1.png", "b/d/1.png"}


def test_a_maze_of_links_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "MOST_LINKS", 100)
    plant(tmp_path, "9/1.png")
    for number in range(9):
        (tmp_path / str(number)).mkdir()
        for link in ("x", "y"):
            (tmp_path / str(number) / link).symlink_to(tmp_path / str(number + 1))
    with pytest.raises(ValueError, match="has more than 100 links to folders") as error:
        images(tmp_path)
    assert_one_line(error)


def test_a_bottomless_folder_is_refused(tmp_path):
    tmp_path.joinpath(*["d"] * (walk.MOST_DEPTH + 2)).mkdir(parents=True)
    with pytest.raises(ValueError, match="has more than 64 nested folders") as error:
        images(tmp_path)
    assert_one_line(error)
