"""The pages of docs: their commands and scripts are run as they stand, with small runs in the place of a user's."""

import ast
import importlib.util
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import simclr_jax
from simclr_jax import __main__
from simclr_jax.interop import google_names, pytorch, tensors, torch_names
from simclr_jax.models import Head, Network, create_encoder, create_model
from support import tf_simclr
from support.pages import BLOCK, DOCS, ROOT
from support.runs import write_run
from support.variables import random_variables

PAGES = [path.stem for path in sorted((DOCS / "weights").glob("*_*.md"))]
SIDE = 32
ELSEWHERE = {"torchvision"}  # packages whose scripts have tests of their own


def blocks(path):
    return BLOCK.findall(path.read_text())


def packages(script):
    nodes = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [getattr(node, "module", None) or alias.name for node in nodes for alias in node.names]
    return {name.split(".")[0] for name in names} - {"torch_resnet"}


def need(names):
    missing = sorted(name for name in names if not importlib.util.find_spec(name))
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: the script of the page is not run")


def a_photo(folder):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)).save(folder / "photo.jpg")


def a_run(folder):
    """RUN, and what a user copies."""
    write_run(folder / "runs" / "mine", **{"augment.image_size": SIDE})
    shutil.copy(DOCS / "torch_resnet.py", folder)


def a_google_checkpoint(folder):
    (folder / "simclrv2/pretrained/r50_1x_sk1").mkdir(parents=True)
    model = create_model(Network(encoder="resnet_tiny", cifar_stem=True, head=Head(kind="none")))
    names = google_names.encoder_names(google_names.Layout("resnet_tiny", False, False, False), 1)
    leaves = tensors.flat(random_variables(model, np.zeros((1, SIDE, SIDE, 3), np.float32)))
    arrays = {names[name]: array for name, array in leaves.items()}
    tf_simclr.write_tf1(arrays, folder / "simclrv2/pretrained/r50_1x_sk1/model.ckpt-250228")


def a_state_dict(folder):
    settings = {"name": "resnet_tiny", "cifar_stem": True}
    encoder = create_encoder(**settings)
    variables = random_variables(encoder, np.zeros((1, SIDE, SIDE, 3), np.float32))
    leaves = {torch_names.name_of(name, encoder.network): array for name, array in tensors.flat(variables).items()}
    turned = {name: array.transpose(3, 2, 0, 1) if array.ndim == 4 else array for name, array in leaves.items()}
    save_file({name: np.ascontiguousarray(array) for name, array in turned.items()}, folder / "resnet50.safetensors")


GIVEN = {"import_google": (a_google_checkpoint, "runs/r50_sk1"), "import_torch": (a_state_dict, "runs/theirs")}


@pytest.fixture(name="folder")
def make_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("torch_resnet", None)


def run_commands(text, monkeypatch):
    for line in text.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "pip":
            assert arguments in (["install", "simclr_jax[onnx]"],), line
            continue
        assert program == "simclr-jax", f"no test runs {line!r}"
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        __main__.main()


def features(script):
    """Runs a script; returns the images that it makes, and what becomes of them."""
    names = {}
    exec(compile(script, "script of a page", "exec"), names)
    return names["images"], np.asarray(names["h"].detach() if hasattr(names["h"], "detach") else names["h"])


@pytest.mark.parametrize("page", PAGES)
def test_the_scripts_of_a_page_run(page, folder, monkeypatch):
    found = blocks(DOCS / "weights" / f"{page}.md")
    scripts = [text for language, text in found if language == "python" and not packages(text) & ELSEWHERE]
    commands = [text for language, text in found if language == "sh"]
    assert len(scripts) == len(commands) == 1
    need(packages(scripts[0]) | ({"onnx"} if page == "export_onnx" else set()))
    prepare, run = GIVEN.get(page, (a_run, "runs/mine"))
    prepare(folder)
    a_photo(folder)
    run_commands(commands[0], monkeypatch)
    encoder = simclr_jax.load_encoder(run)
    cards = [path.read_text() for path in folder.glob("*.md")]
    assert len(cards) == page.startswith("export")
    for script in scripts + [text for card in cards for language, text in BLOCK.findall(card) if language == "python"]:
        images, h = features(script)
        assert images.shape == (1, SIDE, SIDE, 3) and h.shape == (1, encoder.feature_dim)
        np.testing.assert_allclose(h, encoder(images), rtol=1e-4, atol=1e-4)
        # The pixels that probes see, but for another decoder of JPEG and, without this library, rounding to 8 bits.
        assert np.abs(images - encoder.preprocess("photo.jpg")).mean() < 0.02


def test_torchvision_takes_the_file_as_the_page_says(folder):
    (script,) = [text for _, text in blocks(DOCS / "weights" / "export_torch.md") if "torchvision" in text]
    need(packages(script))
    encoder = create_encoder("resnet50")
    x = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype(np.float32)
    variables = random_variables(encoder, x)
    pytorch.save("encoder.safetensors", variables, Network(encoder="resnet50"))
    call = f"\nimages = torch.zeros(1, 3, 32, 32) + torch.tensor({x.tolist()}).permute(0, 3, 1, 2)\nh = model(images)\n"
    _, h = features(script + call)
    np.testing.assert_allclose(h, encoder.apply(variables, x, train=False), rtol=1e-4, atol=1e-4)


def test_every_page_is_listed():
    listed = (DOCS / "weights" / "README.md").read_text()
    assert PAGES and all(f"({page}.md)" in listed for page in PAGES)


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: path.stem)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#]+)", path.read_text())
    here = [link for link in links if "://" not in link]
    assert all((path.parent / link).exists() for link in here), here
