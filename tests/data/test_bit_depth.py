"""Which value is white in a data set's 16-bit files: found once, alike by all that read it, and kept with the run."""

import numpy as np
import pytest
from PIL import Image

import simclr_jax
from simclr_jax.commands import pretrain, preview
from simclr_jax.configs import linear
from simclr_jax.data import bit_depth, sources
from simclr_jax.data.split import Split
from simclr_jax.evaluate.probed_run import ProbedRun
from simclr_jax.runtime import run_folder
from simclr_jax.training.trainer import Trainer
from support.runs import write_run
from support.tiny_config import small

COUNT, SIDE = 40, 8


def gray(largest, count=COUNT, seed=0):
    """Pictures of which the brightest pixel of all has this value, and the first picture is dark."""
    pixels = np.random.default_rng(seed).uniform(0, largest, (count, SIDE, SIDE))
    pixels[0] /= 16
    pixels[-1, 0, 0] = largest
    return pixels.astype(np.uint16)


def write(folder, pictures, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:03}{suffix}")
    return folder


def found(folder, seed=0):
    return bit_depth.find(sources.open_source(f"folder:{folder}", labels="none").load("train"), seed=seed)


@pytest.mark.parametrize(("largest", "bits"), [(200, 8), (255, 8), (256, 10), (4080, 12), (5000, 14), (16384, 16)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_range_is_that_of_the_brightest_in_whole_bits(largest, bits, suffix, tmp_path):
    depth = found(write(tmp_path, gray(largest), suffix))
    assert depth.bits == bits and depth.images <= COUNT
    assert (depth.images == COUNT) == (bits < 16)  # 16 bits are known as soon as one image has them


def test_other_files_are_passed_over_and_say_nothing(tmp_path):
    write(tmp_path, np.full((30, SIDE, SIDE), 255, np.uint8))
    write(tmp_path / "photos", np.full((30, SIDE, SIDE, 3), 255, np.uint8), ".jpg")
    assert found(tmp_path) == bit_depth.BitDepth(16, 0)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "gone.tif").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "deep", gray(1000, 3))
    assert found(tmp_path) == bit_depth.BitDepth(10, 3)
    assert str(found(tmp_path)) == "the value 1,023 is white (10 bits), detected from 3 of them"


def test_no_more_files_are_opened_and_no_more_pixels_read_than_the_bounds_say(tmp_path, monkeypatch):
    folder = write(tmp_path, gray(4000))
    opened = []
    real = bit_depth._opened
    monkeypatch.setattr(bit_depth, "_opened", lambda *image: opened.append(image) or real(*image))
    for name, bound, most in (("MOST_FILES", 7, 7), ("MOST_IMAGES", 5, 5), ("MOST_PIXELS", 3 * SIDE**2, 3)):
        opened.clear()
        with monkeypatch.context() as patch:
            patch.setattr(bit_depth, name, bound)
            first, again = found(folder, seed=3), found(folder, seed=3)
        assert first == again and first.images == most and len(opened) == 2 * most
    paths = np.array([b"/nowhere/%d.JPG" % number for number in range(200_000)])
    opened.clear()
    assert bit_depth.find(Split.whole(paths, None), seed=0).images == 0 and not opened


def test_encoded_images_in_memory_have_a_range_too(tmp_path):
    write(tmp_path, gray(4080))
    images = np.array([path.read_bytes() for path in sorted(tmp_path.iterdir())], object)
    assert bit_depth.find(Split.whole(images, None), seed=0) == bit_depth.BitDepth(12, COUNT)


def test_all_roles_have_the_same_white_and_a_dark_image_stays_darker(tmp_path):
    from simclr_jax.data import feed

    source = sources.open_source(f"folder:{write(tmp_path, gray(4080))}")
    splits = sources.Splits(source, holdout_fraction=0.2)
    parts = [splits.load(role) for role in splits.roles]
    assert {part.bits for part in parts} == {part.take(np.arange(2)).bits for part in parts} == {12}
    means = {}
    for part in parts:
        for batch in feed.central_views(part, SIDE, batch_size=16, unreadable=None):
            means |= dict(zip(batch["ids"].tolist(), batch["images"].mean((1, 2, 3)).tolist(), strict=True))
    first = min(means.values())
    assert 0.02 < first < 0.05 and 0.4 < np.median(list(means.values())) < 0.6  # 1/16 of the others
    assert sources.Splits(source, bits=16).load("train").bits == 16


def config_of(folder, **changes):
    return small(
        f"folder:{folder}",
        **({"train.epochs": 1, "optimizer.warmup_epochs": 0.0, "augment.image_size": SIDE} | changes),
    )


def test_a_run_keeps_its_white_for_whatever_reads_it_later(tmp_path, capsys):
    folder, run = write(tmp_path / "images", gray(4080)), str(tmp_path / "run")
    pretrain.run(config_of(folder), run)
    assert "16-bit files: the value 4,095 is white (12 bits), detected from" in " ".join(
        capsys.readouterr().out.split()
    )
    assert run_folder.read_bits(run) == 12
    write(folder, gray(300))  # the same names, now darker
    (tmp_path / "run" / "data.json").unlink()  # else the run would not go on with other data
    probe = linear.get_config()
    assert ProbedRun(probe, run, labelled=False).splits.load("train").bits == 12
    pretrain.run(config_of(folder, **{"train.epochs": 2}), run)
    assert run_folder.read_bits(run) == 12
    probe.data.source, probe.data.bits = f"folder:{folder}", 10
    assert ProbedRun(probe, run, labelled=False).splits.load("train").bits == 10


def test_a_run_without_such_images_leaves_other_sources_their_own(tmp_path):
    run = str(write_run(tmp_path / "run"))
    run_folder.write_bits(run, 0)
    probe = linear.get_config()
    probe.data.source = f"folder:{write(tmp_path / 'deep', gray(4080))}"
    assert ProbedRun(probe, run, labelled=False).splits.load("train").bits == 12


def test_a_run_of_before_goes_on_as_it_did(tmp_path):
    """Its files of 16 bits were read as if they used them all, and it did not note that; other sources are not its."""
    folder = write(tmp_path / "images", gray(4080))
    run = str(write_run(tmp_path / "run", **{"data.source": f"folder:{folder}"}))
    assert not (tmp_path / "run" / "bits.json").exists() and run_folder.read_bits(run) == 16
    assert Trainer.from_config(config_of(folder), bits=run_folder.read_bits(run)).train.bits == 16
    probe = linear.get_config()
    assert ProbedRun(probe, run, labelled=False).splits.load("train").bits == 16
    probe.data.source = f"folder:{folder}"
    assert ProbedRun(probe, run, labelled=False).splits.load("train").bits == 12
    assert simclr_jax.load_encoder(run).bits == 16


@pytest.mark.parametrize(
    "text", ["", "[12]", '{"bits": "12"}', '{"bits": 7}', '{"bits": 17}', '{"bits": true}', "[" * 9999]
)
def test_a_file_of_others_that_says_no_white_is_told_with_its_mend(text, tmp_path):
    (tmp_path / "bits.json").write_text(text)
    with pytest.raises(ValueError, match=r'does not state the bit depth; write \{"bits": 8\} to') as error:
        run_folder.read_bits(str(tmp_path))
    assert "\n" not in str(error.value)
    (tmp_path / "bits.json").write_text('{"bits": 8}')
    assert run_folder.read_bits(str(tmp_path)) == 8


@pytest.mark.parametrize("bits", [-1, 1, 7, 17])
def test_bits_that_no_image_has_are_refused(bits, tmp_path):
    with pytest.raises(ValueError, match=r"config.data.bits=-?\d+ must be 0 \(detect from the images\) or 8 to 16"):
        pretrain.run(config_of(tmp_path, **{"data.bits": bits}), str(tmp_path / "run"))


def test_bits_are_refused_where_pixels_have_eight(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=np.zeros((COUNT, SIDE, SIDE, 3), np.uint8))
    config = config_of(tmp_path, **{"data.bits": 12, "data.source": f"npz:{tmp_path}/x.npz"})
    with pytest.raises(ValueError, match="data.bits=12 only applies to 16-bit images, but the pixels of npz:"):
        pretrain.run(config, str(tmp_path / "run"))


def test_the_preview_says_what_is_white_and_shows_it(tmp_path, capsys):
    config = config_of(write(tmp_path / "images", gray(4080)))
    preview.run(config, str(tmp_path / "preview.png"), 2)
    assert "16-bit files: the value 4,095 is white (12 bits)" in capsys.readouterr().out
