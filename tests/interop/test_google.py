"""Google's checkpoints: what is read computes what TensorFlow computes, and what does not fit is refused."""

import dataclasses
import functools
import json
import sys

import jax
import numpy as np
import pytest

import simclr_jax
from simclr_jax import __main__
from simclr_jax.commands import import_weights, pretrain
from simclr_jax.configs import default
from simclr_jax.interop import google, google_names, tensors
from simclr_jax.models import ENCODERS, Head, Network, create_model
from simclr_jax.models.architectures import ResNetArchitecture
from simclr_jax.models.resnet import BasicBlock, BottleneckBlock
from simclr_jax.runtime.config import run_config, whole_config
from support import tf_simclr
from support.samples import assert_one_line

SMALL = ResNetArchitecture(True, (1, 2, 1, 1), base_width=8)
TINY = ENCODERS["resnet_tiny"]


@pytest.fixture(autouse=True)
def small_bottleneck(monkeypatch):
    """A bottleneck network of seconds among those that may be found."""
    monkeypatch.setitem(ENCODERS, "small", SMALL)


def images(side, n=2):
    return np.random.default_rng(1).uniform(size=(n, side, side, 3)).astype(np.float32)


def network(architecture, width=1, **settings):
    base_width = architecture.base_width * width
    return tf_simclr.TfSimCLR(architecture.stage_sizes, architecture.bottleneck, base_width, **settings)


def write(form, made, folder):
    if form == "tf1":
        return str(tf_simclr.write_tf1(made.tf1, folder / "model.ckpt-7"))
    return str({"tf2": tf_simclr.write_tf2, "saved": tf_simclr.write_saved_model}[form](made.tf2, folder / "it"))


CASES = {
    # name: (format, encoder, width, side of the images, network, what is to be found)
    "v1 of CIFAR": ("tf1", "resnet_tiny", 1, 8, {"cifar": True, "head": (64, 128), "classes": 10}, {}),
    "v1 wide, classifier alone": ("tf1", "small", 3, 36, {"classes": 5}, {}),
    "v2 with selective kernels": ("tf1", "small", 1, 36, {"sk": 0.0625, "head": (256, 256, 12)}, {"sk_ratio": 0.0625}),
    "v2 in TensorFlow 2, SE too": (
        "tf2",
        "small",
        1,
        36,
        {"sk": 0.75, "se": 0.5, "head": (256, 256, 12), "classes": 3},
        {"sk_ratio": 0.75, "se_ratio": 0.5},
    ),
    "SavedModel": ("saved", "resnet_tiny", 2, 36, {"head": (128, 128, 6), "classes": 4}, {}),
    "SavedModel, ResNet-D of two convolutions": (
        "saved",
        "resnet_tiny",
        1,
        36,
        {"sk": 0.0625, "se": 0.25, "head": (6,)},
        {"sk_ratio": 0.0625, "se_ratio": 0.25},
    ),
    "selective kernels on CIFAR": ("tf2", "small", 1, 8, {"sk": 0.0625, "cifar": True}, {"sk_ratio": 0.0625}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_block_gives_what_tensorflow_gives(case, tmp_path):
    form, encoder, width, side, settings, found = CASES[case]
    made = network(ENCODERS[encoder], width, **settings)
    x = images(side)
    want = made(x)
    weights = google.load(write(form, made, tmp_path))
    head = settings.get("head", ())
    found = {"encoder": encoder, "width": width, "cifar_stem": settings.get("cifar", False), **found}
    assert dataclasses.replace(weights.network, **found) == weights.network
    assert weights.network.head.kind == ("none", "linear", "nonlinear")[min(len(head), 2)]
    assert not head or (weights.network.head.layers, weights.network.head.dim) == (len(head), head[-1])
    assert weights.step == (7 if form == "tf2" else 0)

    def of_blocks(module, _):
        return isinstance(module, BasicBlock | BottleneckBlock)

    model = create_model(weights.network)
    forward = jax.jit(functools.partial(model.apply, train=False, capture_intermediates=of_blocks))
    layers, inside = forward(weights.variables, x)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    blocks = inside["intermediates"]["encoder"]
    assert len(blocks) == sum(ENCODERS[encoder].stage_sizes)
    for name, block in blocks.items():
        close(block["__call__"][0], want[name], err_msg=name)
    jax.tree.map(close, layers, want["layers"])
    if settings.get("classes"):
        close(layers[0] @ weights.classifier["kernel"] + weights.classifier["bias"], want["logits"])
    else:
        assert weights.classifier == {}


# What others list of the published ResNet-50 (4x), the shortcut of each group first; and how many SK adds to it.
PUBLISHED = {
    "conv2d": [7, 7, 3, 256],
    "conv2d_1": [1, 1, 256, 1024],
    "conv2d_2": [1, 1, 256, 256],
    "conv2d_3": [3, 3, 256, 256],
    "conv2d_4": [1, 1, 256, 1024],
    "conv2d_11": [1, 1, 1024, 2048],
    "conv2d_12": [1, 1, 1024, 512],
    "conv2d_43": [1, 1, 4096, 8192],
    "conv2d_45": [3, 3, 2048, 2048],
    "conv2d_52": [1, 1, 2048, 8192],
}


def test_names_and_shapes_are_the_published_ones():
    names = google_names.encoder_names(google_names.Layout("resnet50", False, False, False), 1)
    model = create_model(Network(encoder="resnet50", width=4, head=HEADLESS))
    shapes = {names[ours]: list(shape) for ours, shape in tensors.shapes(model).items()}
    assert len(shapes) == 53 * 5 and shapes["base_model/batch_normalization_52/moving_variance"] == [8192]
    assert {name: shapes[f"base_model/{name}/kernel"] for name in PUBLISHED} == PUBLISHED


HEADLESS = Head(kind="none")


def test_every_variable_of_every_network_has_a_name_of_its_own():
    layouts = [layout for layout in google_names.layouts(2) if layout.encoder in ("small", "resnet_tiny")]
    for layout in layouts:
        ratios = {"sk_ratio": 0.5 * layout.resnet_d, "se_ratio": 0.5 * layout.excitation}
        cifar = layout.resnet_d and not layout.deep_stem
        model = create_model(Network(encoder=layout.encoder, cifar_stem=cifar, **ratios, head=HEADLESS))
        ours = tensors.shapes(model).keys()
        for version in (1, 2):
            names = google_names.encoder_names(layout, version)
            assert names.keys() == ours
            assert len(set(names.values())) == len(names)
    assert len(layouts) == 12


@pytest.fixture(scope="session", name="tiny")
def make_tiny():
    """A network of ResNet-tiny with head and classifier, and its TensorFlow 1 variables with all that lies beside."""
    made = network(TINY, head=(64, 6), classes=4)
    made(images(32))
    return made


def beside(made):
    """What Google's second paper's checkpoints hold beside the weights."""
    plain = {name: array for name, array in made.tf1.items() if "moving" not in name}
    averages = {f"ema_model/{name}": array + 1 for name, array in made.tf1.items() if "supervised" not in name}
    slots = {f"{name}/Momentum": np.zeros_like(array) for name, array in plain.items()}
    return averages | slots | {"global_step": np.int64(250_228), "memory": np.zeros((4, 6), np.float32)}


def test_the_rest_is_named_and_the_moving_average_is_there_for_who_asks(tiny, tmp_path):
    tf_simclr.write_tf1(tiny.tf1 | beside(tiny), tmp_path / "model.ckpt-250228")
    plain, average = (google.load(str(tmp_path), ema=ema) for ema in (False, True))
    assert plain.step == average.step == 250_228
    counts = {kind: len(names) for kind, names in plain.left_out.items()}
    averaged = sum("supervised" not in name for name in tiny.tf1)
    assert counts == {
        "optimiser": sum("moving" not in name for name in tiny.tf1),
        "counters": 1,
        "queue of negatives": 1,
        "moving average of the weights": averaged,
    }
    taken = len(jax.tree.leaves((plain.variables, plain.classifier)))
    assert taken + sum(counts.values()) == len(tiny.tf1) + len(beside(tiny))
    assert len(average.left_out["weights without moving average"]) == averaged
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a + 1, b), plain.variables, average.variables)
    np.testing.assert_array_equal(plain.classifier["bias"], average.classifier["bias"])


def test_an_imported_run_is_a_run(tiny, tmp_path):
    prefix = str(tf_simclr.write_tf1(tiny.tf1 | {"global_step": np.int64(9)}, tmp_path / "model.ckpt-9"))
    run = tmp_path / "run"
    import_weights.google(prefix, str(run), default.get_config())
    encoder = simclr_jax.load_encoder(str(run))
    assert (encoder.feature_dim, encoder.image_size) == (64, 224)
    x = images(32)
    np.testing.assert_allclose(encoder(x), tiny.outputs["layers"][0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(simclr_jax.load_encoder(str(run / "checkpoints" / "9"))(x), encoder(x))
    with np.load(run / "classifier.npz", allow_pickle=False) as classifier:
        logits = encoder(x) @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, tiny.outputs["logits"], rtol=1e-4, atol=1e-4)
    assert json.loads((run / "imported.json").read_text())["left_out"] == {"counters": ["global_step"]}
    config = json.loads((run / "config.json").read_text())
    assert whole_config(config, default.get_config(), str(run)).head.dim == 6
    assert run_config(config, str(run), views=True).augment.image_size == 224
    with pytest.raises(ValueError, match="run was imported and has no optimiser state"):
        pretrain._check_config(str(run), default.get_config(), {})
    with pytest.raises(ValueError, match="already exists"):
        import_weights.google(prefix, str(run), default.get_config())


def changed(tiny, **changes):
    """The variables with some taken away (None) or put in."""
    names = {name.replace("__", "/"): array for name, array in changes.items()}
    return {name: array for name, array in (tiny.tf1 | names).items() if array is not None}


ZERO = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model__conv2d_3__kernel": None}, "resnet_tiny, width 1, .* 1 missing: base_model/conv2d_3/kernel$"),
        ({"base_model__conv2d_77__kernel": ZERO}, "1 surplus: base_model/conv2d_77/kernel$"),
        ({"head_contrastive__nl_0__dense__bias": ZERO}, "1 surplus: head_contrastive/nl_0/dense/bias$"),
        ({"head_contrastive__nl_3__dense__kernel": ZERO}, "1 surplus: head_contrastive/nl_3/dense/kernel$"),
        ({f"more_{i:02}": ZERO for i in range(13)}, "13 surplus: more_00, .*, more_09 and 3 more$"),
        (
            {"base_model__conv2d_3__kernel": ZERO},
            r"1 misshapen: base_model/conv2d_3/kernel is \[3\] instead of \[3, 3, 1",
        ),
        ({"head_supervised__linear_layer__dense__bias": None}, "1 missing: head_supervised/linear_layer/dense/bias"),
        ({"base_model__batch_normalization__gamma": np.zeros(15, np.float32)}, "its stem has 15 channels, not 16 time"),
        (
            {"base_model__conv2d__kernel": np.zeros((7, 7, 3, 16))},
            "base_model/conv2d/kernel is float64 instead of float32",
        ),
        ({"global_step": np.int64(-1)}, "is of step -1"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tiny, changes, message, tmp_path):
    tf_simclr.write_tf1(changed(tiny, **changes), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=message) as error:
        google.load(str(tmp_path / "model.ckpt"))
    assert_one_line(error)


def test_objects_that_do_not_fit_are_named(tiny, tmp_path):
    more = tiny.tf2 | {"resnet_model/extra/kernel": ZERO}
    del more["resnet_model/block_groups/1/layers/0/shortcut_layers/1/bn/moving_mean"]
    tf_simclr.write_tf2(more, tmp_path)
    with pytest.raises(ValueError, match="1 missing: .*shortcut_layers/1/bn/moving_mean; 1 surplus: .*") as error:
        google.load(str(tmp_path))
    assert_one_line(error)


def a_saver(tmp_path, tiny):
    return tf_simclr.write_tf1(tiny.tf1, tmp_path / "model.ckpt-7")


def truncated(tmp_path, tiny):
    data = tmp_path / "model.ckpt-7.data-00000-of-00001"
    a_saver(tmp_path, tiny)
    data.write_bytes(data.read_bytes()[:-1000])


def bit_flipped(tmp_path, tiny):
    data = tmp_path / "model.ckpt-7.data-00000-of-00001"
    a_saver(tmp_path, tiny)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def cut_index(tmp_path, tiny):
    index = tmp_path / "model.ckpt-7.index"
    a_saver(tmp_path, tiny)
    index.write_bytes(index.read_bytes()[:-30])


def without_data(tmp_path, tiny):
    a_saver(tmp_path, tiny)
    (tmp_path / "model.ckpt-7.data-00000-of-00001").unlink()


def two_checkpoints(tmp_path, tiny):
    a_saver(tmp_path, tiny)
    (tmp_path / "model.ckpt-8.index").write_bytes(b"")


def of_another_library(tmp_path, tiny):
    tf_simclr.write_tf1({"bert/embeddings/word": ZERO, "bert/pooler": ZERO}, tmp_path / "model.ckpt-7")


def objects_of_another_library(tmp_path, tiny):
    tf_simclr.write_tf2({"dense/kernel": ZERO}, tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "incomplete: its variables take .* bytes, but its files hold"),
        (bit_flipped, "cannot be read; it is damaged or incomplete: .*Checksum does not match"),
        (cut_index, "cannot be read; it is damaged or incomplete"),
        (without_data, "part of a checkpoint: .* no data file; copy all"),
        (two_checkpoints, "holds 2 checkpoints; choose one: model.ckpt-7, model.ckpt-8"),
        (of_another_library, "not one of SimCLR: it holds bert/embeddings/word, bert/pooler"),
        (objects_of_another_library, "not one of SimCLR: its objects are global_step, model, optimizer"),
        (
            lambda path, tiny: (path / "sub").mkdir(),
            "holds no TensorFlow checkpoint; perhaps one of its folders does: sub$",
        ),
        (lambda path, tiny: (path / "_CHECKPOINT_METADATA").touch(), "an Orbax checkpoint of another JAX library"),
    ],
)
def test_what_is_no_whole_checkpoint_is_told_in_a_line(damage, message, tiny, tmp_path):
    damage(tmp_path, tiny)
    with pytest.raises(ValueError, match=message) as error:
        google.load(str(tmp_path))
    assert_one_line(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04", "is an archive; unpack it"),
        (b"\x80\x04\x95", "it is a pickle, which may run code and is not read"),
        (b"\x89HDF\r\n", "a Keras HDF5 file"),
        (b"hello", r"is not a TensorFlow checkpoint, which is a pair of files NAME\.index"),
    ],
)
def test_files_of_other_kinds_are_told_by_their_first_bytes(content, message, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        google.load(str(path))
    with pytest.raises(ValueError, match="does not exist"):
        google.load(str(tmp_path / "nothing"))


def test_the_command_says_what_it_found_or_ends_in_a_line(tiny, tmp_path, capsys, monkeypatch):
    tf_simclr.write_tf1(tiny.tf1, tmp_path / "model.ckpt-7")

    def command(path, out):
        monkeypatch.setattr(sys, "argv", ["simclr_jax", "import", "google", str(path), "--out", str(tmp_path / out)])
        __main__.main()

    command(tmp_path, "run")
    assert "resnet_tiny, width 1, a projection head of 2 layers to 6" in capsys.readouterr().out
    assert (tmp_path / "run" / "config.json").exists()
    with pytest.raises(SystemExit, match="^error: .*nothing does not exist"):
        command(tmp_path / "nothing", "other")
    assert not (tmp_path / "other").exists()
