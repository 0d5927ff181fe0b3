"""The card of an exported file: what it is, where it comes from, what it wants and how it is loaded, in Markdown.

Runs may be anybody's: what is read of them stands in code spans that it cannot leave, one line whatever it holds.
"""

import dataclasses
import re
from typing import Any

from simclr_jax.augment.recipe import EVALUATION_CROP, SMALL_SIDE
from simclr_jax.runtime.config import CAME_LATER, shown

_LONGEST = 300  # characters of a value that is shown
_NO_VALUE = "–"
_VALUES = {1: "grey, of colours 0.2989 red + 0.587 green + 0.114 blue,", 3: "red, green, blue"}

_IMAGE = """
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
side = min(image.size) if max(image.size) <= SMALL_SIDE else round(EVALUATION_CROP * min(image.size))
left, top = (image.width - side + 1) // 2, (image.height - side + 1) // 2
image = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
images = np.asarray(image, np.float32)[None] / 255
"""

# Of images without colours, which Pillow may not open: how they are prepared depends on their files.
_ARRAY = """
# float32 in [0, 1], [height, width, CHANNELS]: the central square of an image, resized, over the value that is white
image = np.zeros((SIZE, SIZE, CHANNELS), np.float32)
images = image[None]
"""

# How a run was trained, by its loss.
_ORIGINS = {
    "nt_xent": "pretrained without labels by SimCLR",
    "dcl": "pretrained without labels by SimCLR with the decoupled loss DCL",
    "supcon": "pretrained with labels by supervised contrastive learning (SupCon)",
}

# The keys of RUN/config.json that make the recipe, by the beginnings of their names.
_RECIPE = {
    "views": ("augment.",),
    "loss and head": ("loss.name", "loss.temperature", "head."),
    "optimiser": ("optimizer.",),
    "start": ("model.init_from", "model.freeze"),
    "length": ("train.batch_size", "train.epochs", "train.microbatch_size"),
    "normalisation": ("model.norm", "model.global_batch_norm"),
    "computed in": ("model.dtype",),
    "seed": ("seed",),
}


@dataclasses.dataclass(frozen=True)
class Format:
    """What tells one kind of file from another.

    Attributes:
      title: what the file is.
      suffix: of its name.
      layout: of a batch of images, with SIZE for their side and CHANNELS for their channels.
      normalized: where what `model.normalize` asks for is done.
      needs: what pip installs to load it.
      imports, load: the lines that do, with FILE for its name; they make h of `images`.
      notes: what else to know.
    """

    title: str
    suffix: str
    layout: str
    normalized: str
    needs: str
    imports: str
    load: str
    notes: str


FORMATS = {
    "torch": Format(
        "a PyTorch state dict with torchvision's names, in a safetensors file",
        ".safetensors",
        "float32 [batch, CHANNELS, SIZE, SIZE], channels first; other sizes work, but less well the more they differ",
        "done by torch_resnet.py, but not by torchvision's networks",
        "torch safetensors numpy pillow",
        "import numpy as np\nimport torch\nfrom PIL import Image, ImageOps\n\n"
        "import torch_resnet  # docs/torch_resnet.py of simclr_jax, copied next to this script\n",
        "encoder = torch_resnet.load(FILE)\nh = encoder(torch.from_numpy(images).permute(0, 3, 1, 2))\n",
        "To load it into torchvision's own networks, see docs/weights/export_torch.md of simclr_jax.",
    ),
    "onnx": Format(
        "an ONNX graph (opset 17), float32",
        ".onnx",
        'input "images", float32 [batch, SIZE, SIZE, CHANNELS], channels last; any number of images, but only of this '
        "size",
        "done inside the file",
        "onnxruntime numpy pillow",
        "import numpy as np\nimport onnxruntime\nfrom PIL import Image, ImageOps\n",
        'session = onnxruntime.InferenceSession(FILE)\n(h,) = session.run(["h"], {"images": images})\n',
        "Runtimes with reduced precision, such as TF32 on GPUs, agree less closely.",
    ),
    "stablehlo": Format(
        "a StableHLO program of jax.export, for CPU, CUDA and TPU",
        ".stablehlo",
        "float32 [batch, SIZE, SIZE, CHANNELS], channels last; any number of images, but only of this size",
        "done inside the file",
        "jax numpy pillow",
        "import numpy as np\nfrom jax import export\nfrom PIL import Image, ImageOps\n",
        'with open(FILE, "rb") as file:\n    encoder = export.deserialize(file.read())\nh = encoder.call(images)\n',
        "It needs only jax: the version that wrote it, or a newer one within the period for which jax promises to "
        "read older files. For longer storage, keep the run.",
    ),
}

TIMM = dataclasses.replace(
    FORMATS["torch"],
    title="a PyTorch state dict with timm's names, in a safetensors file",
    layout="float32 [batch, CHANNELS, SIZE, SIZE], channels first",
    normalized="to be done before: timm's networks take normalised images",
    needs="torch timm safetensors numpy pillow",
    imports="import numpy as np\nimport timm\nimport torch\nfrom PIL import Image, ImageOps\n"
    "from safetensors.torch import load_file\n",
    load="encoder = CALL\nencoder.load_state_dict(load_file(FILE), strict=True)\nencoder.eval()\n"
    "with torch.no_grad():\n    h = encoder(torch.from_numpy(images).permute(0, 3, 1, 2))\n",
    notes="All names and shapes are timm's, which strict=True checks.",
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a card tells of.

    Attributes:
      file: name of the exported file, without its folder.
      format: of `FORMATS`.
      timm: of a "torch" file, the Python that makes the network of timm; "" where timm has no such network.
      sha256, size: of the file, size in bytes.
      run, step: where its weights are from.
      network: {"encoder": …, "parameters": …} in the order to be shown, in words of this library.
      feature_dim: length of h.
      image_size: side of the images, pixels.
      batch_norm: whether the encoder has running statistics.
      bits: of the training images of 16 bits, the bit depth whose largest value is white; 0 where there were none.
      normalize: `model.normalize`.
      numbers: what is subtracted from each channel, and what it is divided by.
      channels: of the images.
      config: {"section.key": value} of RUN/config.json.
      imported: what RUN/imported.json holds; None where the run was trained by this library.
      probes: [(title, what RUN/eval/NAME.json holds)].
      license: as the user states it; None where not.
      versions: of this library and jax, in words.
      date: of the export.
    """

    file: str
    format: str
    timm: str
    sha256: str
    size: int
    run: str
    step: int
    network: dict[str, str]
    feature_dim: int
    image_size: int
    batch_norm: bool
    bits: int
    normalize: str
    numbers: tuple[tuple[float, ...], tuple[float, ...]]
    channels: int
    config: dict[str, Any]
    imported: dict[str, Any] | None
    probes: list[tuple[str, dict[str, Any]]]
    license: str | None
    versions: str
    date: str


def render(of: Subject) -> str:
    """Returns the card, Markdown with tables."""
    kind = TIMM if of.format == "torch" and of.timm else FORMATS[of.format]
    if of.imported is not None:
        origin, weights = "with imported weights", "the imported weights and of their training images"
        told = {"from": "from", "file": "path", "network": "network"}
        rows = _table("imported", {name: code(of.imported.get(key, "")) for name, key in told.items()})
        recipe = f"Not by simclr_jax: the weights were imported, and their file does not contain the recipe.\n\n{rows}"
        data = "Not known: the imported file does not say."
    else:
        loss = str(of.config.get("loss.name", CAME_LATER["loss.name"]))
        origin, weights = _ORIGINS.get(loss, f"pretrained with a loss of its own, {code(loss)}"), "the training images"
        if start := of.config.get("model.init_from"):
            origin, weights = f"{origin}, started from {code(start)}", f"the weights it started from and of {weights}"
        rows = {}
        for name, beginnings in _RECIPE.items():
            values = [code(f"{key}={_text(value)}") for key, value in of.config.items() if key.startswith(beginnings)]
            rows[name] = ", ".join(values) or _NO_VALUE
        recipe = _table("keys of config.json", rows)
        source, limit = of.config.get("data.source", ""), of.config.get("data.limit")
        counts = (result.get("images") for _, result in of.probes if result.get("source") == source)
        counted = next((found["train"] for found in counts if isinstance(found, dict) and "train" in found), None)
        rows = {"source": code(source), "split": code(of.config.get("data.train_split", ""))}
        rows["training images"] = "not recorded" if counted is None else f"{code(counted)}, as counted by its probes"
        data = _table("data", rows | ({"data.limit": code(limit)} if limit else {}))
    wanted = {
        "images": kind.layout.replace("SIZE", str(of.image_size)).replace("CHANNELS", str(of.channels)),
        "values": f"{_VALUES.get(of.channels, f'{of.channels} channels')} from 0 to 1"
        + "; rotated upright by Exif orientation, transparency on white" * (of.channels in _VALUES)
        + (f"; in 16-bit images {2**of.bits - 1:,} is white" if of.bits else ""),
        "crop": f"the central square, {EVALUATION_CROP} of the shorter side (all of it for images of up to "
        f"{SMALL_SIDE} × {SMALL_SIDE}), resized to {of.image_size} × {of.image_size} (bicubic, antialiased)",
        "normalisation": "none"
        if of.normalize == "none"
        else f"by the mean and standard deviation of {_normalized_by(of)}, {kind.normalized}",
        "gives": f"h, float32 [batch, {of.feature_dim}]",
    }
    # A program that makes h of a photo. Its fence is longer than any that it holds: the file's name may be anything.
    names = {"SMALL_SIDE": SMALL_SIDE, "EVALUATION_CROP": EVALUATION_CROP, "SIZE": of.image_size}
    names["CHANNELS"] = of.channels
    image = re.sub("|".join(names), lambda name: str(names[name[0]]), _IMAGE if of.channels == 3 else _ARRAY)
    load = kind.load.replace("CALL", of.timm).replace("FILE", ascii(of.file))
    imports = kind.imports if of.channels == 3 else kind.imports.replace("from PIL import Image, ImageOps\n", "")
    script = f"{imports}{image}\n{load}"
    fence = "`" * max(3, 1 + _longest_fence(script))
    license = (
        "Not stated; give it to the export with `--license=TEXT`." if of.license is None else f"{code(of.license)}."
    )
    mode = ", with BatchNorm in evaluation mode" if of.batch_norm else ""
    parts = [
        f"# {code(of.file)}",
        f"An image encoder, {origin}: {kind.title}. It turns each image into a representation h of {of.feature_dim:,} "
        f"numbers{mode}. Written by {of.versions} on {of.date}.",
        _table("network", of.network | {"run": f"{code(of.run)}, step {of.step:,}"}),
        f"## How it was trained\n\n{recipe}",
        f"## Images it was trained on\n\n{data}",
        f"## Probes\n\n{_probes(of)}",
        f"## Preprocessing\n\n{_table('input and output', wanted)}",
        f"## How to load it\n\n```sh\npip install {kind.needs}\n```\n\n{fence}python\n{script}{fence}\n\n{kind.notes}",
        f"## Licence\n\n{license} The licence of {weights} may also apply to this file.",
        f"## File\n\n{_table('file', {'name': code(of.file), 'bytes': f'{of.size:,}', 'SHA-256': code(of.sha256)})}",
    ]
    return "\n\n".join(parts) + "\n"


def code(value: Any) -> str:
    """Returns a value as a code span of one line, which Markdown reads nothing in, inside tables too.

    A span ends at the first run of as many backticks as it began with, so it begins with more than it holds. What would
    begin a line, turn text around or end a table's cell is shown by its number.
    """
    text = _text(value)
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text).replace("|", r"\x7c").strip()
    if not text:
        return _NO_VALUE
    fence = "`" * (1 + _longest_fence(text))
    room = " " * (text[0] == "`" or text[-1] == "`")
    return f"{fence}{room}{text}{room}{fence}"


def _normalized_by(of: Subject) -> str:
    if of.normalize != "data":
        return of.normalize
    mean, deviation = (", ".join(f"{value:g}" for value in values) for values in of.numbers)
    return f"each channel of the training images, mean {mean} and deviation {deviation}"


def _longest_fence(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def _table(head: str, rows: dict[str, str]) -> str:
    """A table of two columns; what is anybody's has passed `code`."""
    return "\n".join([f"| {head} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _probes(of: Subject) -> str:
    found = [(title, result) for title, result in of.probes if _fraction(result.get("top1")) is not None]
    if not found:
        return "Not probed: the quality of the features has not been measured."
    lines = [
        "Top-1 accuracy on test images that the probe was not trained on; *untrained* is the same network "
        "with random weights or, for fine-tuning, trained from them.\n",
        "| probe | top-1 | untrained | chance | layer | step | data |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, result in found:
        cells = [code(title)]
        for name in ("top1", "untrained_top1" if "untrained_top1" in result else "from_scratch_top1", "chance_top1"):
            value, deviation = _fraction(result.get(name)), _fraction(result.get(f"{name}_deviation"))
            spread = f" ± {100 * deviation:.2f}" if deviation else ""
            cells.append(_NO_VALUE if value is None else f"{100 * value:.2f}{spread} %")
        cells += [code(result.get(name, "")) for name in ("layer", "step", "source")]
        lines.append(f"| {' | '.join(cells)} |")
    others = [code(title) for title, result in found if result.get("step") != of.step]
    if others:
        lines.append(
            f"\n**Measured at another step than this file**, which is of step {of.step:,}: {', '.join(others)}."
        )
    return "\n".join(lines)


def _fraction(value: Any) -> float | None:
    return value if isinstance(value, int | float) and 0 <= value <= 1 else None
