"""A table gives each image the label that stands in its row, or is refused in one line that says what to change."""

import pytest
from etils import epath

from simclr_jax.data import label_file
from support.samples import assert_one_line


def table(tmp_path, text):
    path = epath.Path(tmp_path) / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return label_file.read(path)


@pytest.mark.parametrize(
    "header, row",
    [
        ("file,label", "a.png,cat"),
        ("label,file", "cat,a.png"),
        ("Image,Class", "a.png,cat"),
        ("id,breed", "a.png,cat"),  # two columns, one of which is known
        ("photo,label", "a.png,cat"),
        ("index,filename,age,category", "3,a.png,4,cat"),
        ("\ufeffimage_id,label", '"a.png" , "cat"'.replace(" ", "")),
        (" file , label ", " ./a.png , cat "),
    ],
)
def test_the_columns_are_found_by_their_names(tmp_path, header, row):
    assert table(tmp_path, f"{header}\r\n{row}\r\n\r\n").label_of == {"a.png": "cat"}


def test_what_is_not_read_of_a_table_is_known(tmp_path):
    found = table(tmp_path, "index,filename,age,category\n1,a.png,2,cat\n2,b.png,3,\n")
    assert found.columns == ("filename", "category") and found.unused == ("index", "age")
    assert found.label_of == {"a.png": "cat"}  # a row without a label gives none


@pytest.mark.parametrize(
    "text, mentions",
    [
        ("", "starts with nothing: its first line must name a column of files and one of labels, such as file,label"),
        ("a.png,cat\nb.png,dog\n", "starts with a.png, cat: its first line must name"),
        ("file,age,breed\na.png,3,pug\n", "starts with file, age, breed"),
        ("file;label\na.png;cat\n", "starts with file;label"),
        ("file,label\na.png,cat,dog\n", "row 2 of .* has 3 columns, but the first row has 2"),
        ("file,label\na.png,cat\na.png,dog\n", "row 3 of .* gives a.png a second label: cat, dog; keep one"),
        (b"\xff\xfe\0\0", "cannot be read as CSV"),
        ('file,label\n"a.png,cat\n', "cannot be read as CSV"),
        (b"file,label\na.png," + b"x" * 200_000, "cannot be read as CSV: field larger"),
    ],
)
def test_what_is_no_table_of_labels_is_refused(tmp_path, text, mentions):
    with pytest.raises(ValueError, match=mentions) as error:
        table(tmp_path, text)
    assert_one_line(error)


def test_what_never_ends_is_not_read(tmp_path):
    for path in ("/dev/zero", str(tmp_path)):
        with pytest.raises(ValueError, match="is not a file but a folder, a pipe or a device"):
            label_file.read(epath.Path(path))


IMAGES = ["cat.png", "x/1.png", "x/2.jpg", "y/2.jpg", "z/deep.tar.png", "n"]


def match(tmp_path, *rows, **options):
    labels, missing = label_file.match(table(tmp_path, "\n".join(("file,label", *rows))), IMAGES, "T", **options)
    return dict(zip(IMAGES, labels, strict=True)), missing


def test_images_are_found_by_path_or_by_name_with_or_without_suffix(tmp_path):
    rows = ["cat.png,a", "1,b", "x/2.jpg,c", "y\\2,d", "deep.tar,e", "n,f"]
    assert match(tmp_path, *rows) == (dict(zip(IMAGES, "abcdef", strict=True)), 0)


def test_a_path_is_no_name_of_another_image(tmp_path):
    found = table(tmp_path, "file,label\na.png,cat\n")
    assert label_file.match(found, ["a.png", "x/a.png"], "T")[0] == ["cat", ""]


def test_images_without_a_row_have_no_label(tmp_path):
    labels, _ = match(tmp_path, "cat,a")
    assert labels == dict.fromkeys(IMAGES, "") | {"cat.png": "a"}


def test_a_name_of_several_images_is_refused_unless_one_is_meant(tmp_path):
    with pytest.raises(ValueError, match="T names 2, which may be x/2.jpg, y/2.jpg: give paths") as error:
        match(tmp_path, "2,a")
    assert_one_line(error)
    labels, _ = match(tmp_path, "2,a", preferred={3})
    assert labels["y/2.jpg"] == "a" and labels["x/2.jpg"] == ""


def test_two_rows_of_one_image_are_refused_if_they_differ(tmp_path):
    assert match(tmp_path, "1,a", "x/1.png,a")[0]["x/1.png"] == "a"
    with pytest.raises(ValueError, match="T gives x/1.png two labels; keep one of its rows"):
        match(tmp_path, "1,a", "x/1.png,b")


def test_rows_without_an_image_are_counted_and_refused_where_they_are_many(tmp_path):
    with pytest.raises(ValueError, match=r"T: 1 of its 2 rows with a label name images that do not exist \(gone.png\)"):
        match(tmp_path, "1,a", "gone.png,b")
    with pytest.raises(ValueError, match="T: 0 of its 0 rows"):
        match(tmp_path, "1,")
    many = [f"i{i}.png" for i in range(99)]
    found = table(tmp_path, "\n".join(["file,label", *(f"{name},a" for name in many), "gone,b"]))
    assert label_file.match(found, many, "T") == (["a"] * 99, 1)


def test_a_row_of_another_folder_names_no_image_of_this_one(tmp_path):
    with pytest.raises(ValueError, match="name images that do not exist"):
        match(tmp_path, "y/1.png,a")
