"""The table of bad_input.py: 300 things that people type, and files that they are given."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from bad_files import CONFIGS, DAMAGE, FOLDERS, NPZ, SMALL, STORED, STRANGERS, flags_of


class Case(NamedTuple):
    """One input: to train, probe, simclr_jax (with its command as first argument) or load (of an encoder)."""

    kind: str
    program: str
    arguments: tuple[str, ...]


def table(scratch: pathlib.Path) -> Iterator[Case]:
    """Yields all cases."""
    good = scratch / "good.npz"
    train = (f"--config=configs/quickstart.py --config.data.source=npz:{good} " + flags_of(SMALL)).split()
    into, out = f"--workdir={scratch}/new", f"--out={scratch}/exported"
    for arguments in WORDS:
        yield Case("command line", arguments[0], tuple(part.format(good=good) for part in arguments[1:]))
    for flag in VALUES.split():
        yield Case("value of a key", "train", (*train, f"--config.{flag}", into))
    for name in CONFIGS:
        yield Case("config file", "train", (f"--config={scratch}/configs/{name}", into))
    for name in ("syntax.py", "none.py", "raises.py"):
        yield Case("config file", "train", (f"--config={scratch}/configs/{name}", "--config.seed=1", into))
    for source in (*SOURCES, *(f"npz:{scratch}/npz/{name}" for name in sorted(NPZ))):
        yield Case("source or archive", "train", (*train, f"--config.data.source={source}", into))
    for name in sorted(FOLDERS):
        program = ("train", "simclr_jax")[len(name) % 2]
        options = [f"--config.data.source=folder:{scratch}/folders/{name}"]
        options += [into] if program == "train" else ["--out=" + str(scratch / "sheet.png")]
        yield Case("folder", program, (*["preview"] * (program != "train"), *train, *options))
    for workdir in WORKDIRS:
        yield Case("workdir", "train", (*train, "--workdir=" + workdir.format(scratch=scratch)))
    for workdir in PROBED:
        yield Case("workdir", "probe", ("--workdir=" + workdir.format(scratch=scratch),))
        yield Case("workdir", "load", (workdir.format(scratch=scratch),))
        yield Case("workdir", "simclr_jax", ("export", "stablehlo", workdir.format(scratch=scratch), out))
    for flag in PROBES:
        yield Case("probe's config", "probe", (f"--workdir={scratch}/run", *flag.split()))
    for number, name in enumerate(sorted(STORED)):
        run = f"{scratch}/runs/{name}"
        yield Case("config.json of a run", "load", (run,))
        if number % 2:
            yield Case("config.json of a run", "probe", (f"--workdir={run}",))
        else:
            yield Case("config.json of a run", "train", (*train, f"--workdir={run}"))
    for name in STRANGERS:
        yield Case("run of a stranger", "probe", (f"--workdir={scratch}/runs/{name}",))
        yield Case("run of a stranger", "simclr_jax", ("knn", f"--workdir={scratch}/runs/{name}"))
    yield Case("other data", "train", (*train, f"--workdir={scratch}/runs/grown"))
    for name in sorted(DAMAGE):
        yield Case("checkpoint of a run", "load", (f"{scratch}/runs/{name}",))
        yield Case("checkpoint of a run", "simclr_jax", ("export", "torch", f"{scratch}/runs/{name}", out))


TRAIN = ("train", "--config=configs/quickstart.py")
SWEEP = ("simclr_jax", "sweep", "--config=ablation", "--workdir=x")

WORDS = [
    ("simclr_jax", "prewiev"),
    ("simclr_jax", "check_data"),
    ("simclr_jax", "--config=configs/quickstart.py"),
    ("simclr_jax", "\x1b[2J"),
    ("simclr_jax", "preview"),
    ("simclr_jax", "preview", "--config="),
    ("simclr_jax", "preview", "--config"),
    ("simclr_jax", "preview", *TRAIN[1:], "--images=0"),
    ("simclr_jax", "preview", *TRAIN[1:], "--images=many"),
    ("simclr_jax", "preview", *TRAIN[1:], "--images=1000000000"),
    ("simclr_jax", "preview", *TRAIN[1:], "--out=/no/where/sheet.png"),
    ("simclr_jax", "preview", *TRAIN[1:], "--out=/tmp"),
    ("simclr_jax", "preview", *TRAIN[1:], "--out="),
    ("simclr_jax", "preview", *TRAIN[1:], "--workdir=x"),
    ("simclr_jax", "check-data"),
    ("simclr_jax", "check-data", *TRAIN[1:], "--config.data.sauce=textures"),
    ("simclr_jax", "check-data", *TRAIN[1:], "--out=x"),
    ("simclr_jax", "features"),
    ("simclr_jax", "features", "--workdir=nowhere", "--out=x"),
    ("simclr_jax", "features", "--workdir=configs", "--out=configs"),
    ("simclr_jax", "export"),
    ("simclr_jax", "export", "caffe", "nowhere", "--out=x"),
    ("simclr_jax", "export", "onnx", "nowhere"),
    ("simclr_jax", "export", "onnx", "nowhere", "--out=x"),
    ("simclr_jax", "export", "onnx", "nowhere", "--out="),
    ("simclr_jax", "export", "torch", "nowhere", "--out=configs"),
    ("simclr_jax", "export", "torch", "nowhere", "--out=/no/where/x"),
    ("simclr_jax", "export", "stablehlo", "nowhere", "--out=gs://bucket/x"),
    ("simclr_jax", "export", "stablehlo", "nowhere", "--out=x", "--licence=MIT"),
    ("simclr_jax", "report"),
    ("simclr_jax", "report", "--workdir=nowhere"),
    ("simclr_jax", "report", "--workdir=configs", "--config.seed=1"),
    ("simclr_jax", "sweep"),
    SWEEP,
    (*SWEEP, "--over=loss.temperature"),
    (*SWEEP, "--over=loss.temperature=0.1,0.1"),
    (*SWEEP, "--over=loss.temperatur=0.1,0.2"),
    (*SWEEP, "--over=loss.temperature=0.1,cold"),
    (*SWEEP, "--over=data.limit=10,20"),
    (*SWEEP, "--over=train.batch_size=16,1000000"),
    ("simclr_jax", "ablate"),
    ("simclr_jax", "ablate", "--workdir=x"),
    ("simclr_jax", "ablate", "--study=heads", "--workdir=x"),
    ("simclr_jax", "ablate", "--study=head", "--workdir="),
    ("simclr_jax", "ablate", "--study=head", "--workdir=configs"),
    ("simclr_jax", "ablate", "--study=head", "--workdir=x", "--seeds=0"),
    ("simclr_jax", "ablate", "--study=head", "--workdir=x", "--seeds=many"),
    ("simclr_jax", "ablate", "--study=batch", "--workdir=x", "--config.train.batch_size=1000"),
    ("simclr_jax", "ablate", "--study=head", "--workdir=x", "--config.data.source=npz:{good}", "--config.head.dim=1"),
    ("train",),
    TRAIN,
    (*TRAIN, "--workdir"),
    (*TRAIN, "--workdir="),
    (*TRAIN, "--workdir=x", "stray"),
    (*TRAIN, "--wrokdir=x"),
    (*TRAIN, "-workdir"),
    (*TRAIN, "--workdir=x", "--flagfile=/no/such/file"),
    (*TRAIN, "--workdir=x", "--verbose=loud"),
    (*TRAIN, "--workdir=x", "--config.train.epoch=3"),
    (*TRAIN, "--workdir=x", "--config.train=3"),
    (*TRAIN, "--workdir=x", "--config.train.epochs.more=3"),
    (*TRAIN, "--workdir=x", "--config.=3"),
    (*TRAIN, "--workdir=x", "--config..=3"),
    (*TRAIN, "--workdir=x", "--config.train.epochs"),
    (*TRAIN, "--workdir=x", "--noconfig.train.epochs"),
    ("train", "--config.train.epochs=3", "--config=configs/quickstart.py", "--workdir=x"),
    ("train", "--config=configs/linear.py", "--workdir=x"),
    ("train", "--confg=configs/quickstart.py", "--workdir=x"),
    ("train", "–config=configs/quickstart.py", "--workdir=x", "--config.seed=1"),
    ("train", "configs/quickstart.py", "--workdir=x"),
    ("train", "--config=configs/quickstart.py.", "--workdir=x"),
    (*TRAIN, "--workdir=x", "--config.train.batch_size=1e3"),
    (*TRAIN, "--workdir=x", "--config.train.epochs=100.0"),
    (*TRAIN, "--workdir=x", "--config.augment.image_size=224x224"),
    (*TRAIN, "--workdir=x", "--config.train.lr=1"),
    (*TRAIN, "--workdir=x", "--lr=1"),
    (*TRAIN, "--workdir=x", "train.epochs=5"),
    (*TRAIN, "--workdir=x", "--config.data.labels=names"),
    (*TRAIN, "--workdir=x", "--config.data.labels=none"),
    (*TRAIN, "--workdir=x", "--config.data.bits=7"),
    (*TRAIN, "--workdir=x", "--config.data.identity=number"),
    (*TRAIN, "--workdir=x", "--config.model.init_from=nowhere"),
    (*TRAIN, "--workdir=s3://bucket/run"),
    (*TRAIN, "--workdir=gs://bucket/run"),
    (*TRAIN, "--workdir=x", "--config.data.source=folder:s3://bucket/x"),
    (*TRAIN, "--workdir=x", "--config.data.source=tfds:cifar10", "--config.data.dir=gs://x"),
    (*TRAIN, "--workdir=x", "--config.data.source=tfds:x/.."),
    (*TRAIN, "--workdir=x", "--config.data.source=tfds:x/data_dir=/tmp"),
    ("probe", "--workdir=s3://bucket/run"),
    ("simclr_jax", "features", "--workdir=nowhere", "--out=s3://b/x"),
    ("simclr_jax", "report", "--workdir=nowhere", "--out=gs://b/x"),
    ("simclr_jax", "import", "torch", "x", "--out=s3://b/x", "--normalize=none"),
    ("simclr_jax", "export", "torch", "nowhere", "--out=e.pt"),
    ("probe",),
    ("probe", "--workdir=nowhere"),
    ("probe", "--workdir=configs"),
    ("probe", "--workdir=nowhere", "--config.epoch=3"),
    ("probe", "--workdir=nowhere", "--config=configs/quickstart.py"),
]

VALUES = """
seed=-1 seed=1.5 seed=99999999999999999999 seed=x data.limit=-1 data.holdout_fraction=0.5 data.cache=disk
data.holdout_fraction=nan data.max_corrupt_fraction=1 data.max_corrupt_fraction=-0.1 data.max_corrupt_fraction=nan
data.train_split=no data.test_split=train data.validation_split=nowhere augment.placement=moon augment.image_size=0
augment.image_size=-1 augment.image_size=10000000 augment.image_size=2.5 augment.min_area=0 augment.min_area=2
augment.max_area=1.1 augment.min_aspect=-1 augment.max_aspect=inf augment.flip_probability=1.5 augment.hue=3
augment.jitter_strength=1e300 augment.brightness=-1 augment.blur_probability=nan augment.min_sigma=0
augment.max_sigma=1e999 model.encoder=resnet19 model.width=0 model.width=1000000000 model.cifar_stem=maybe
model.dtype=float16 model.global_batch_norm=2 head.kind=deep head.layers=0 head.layers=1000000 head.dim=0
head.dim=1000000000 loss.temperature=0 loss.temperature=-0.1 loss.temperature=inf loss.temperature=1e-300
loss.chunk_size=-1 optimizer.name=adam optimizer.learning_rate=0 optimizer.learning_rate=nan
optimizer.learning_rate=1e39 optimizer.scaling=cubic optimizer.weight_decay=-1 optimizer.warmup_epochs=-1
optimizer.warmup_epochs=2 train.batch_size=1 train.batch_size=1000000000000 train.batch_size=512 train.epochs=0
train.epochs=1000000000 train.epochs=1e3 online_probe.learning_rate=-1 checkpoint.keep=0 checkpoint.every_steps=-1
log.every_steps=0
"""

SOURCES = [
    "tfds:cifar11",
    "tfds:huggingface:someone/theirs",
    "tfds:",
    "npz:",
    "folder:",
    "texture",
    "textures:x",
    "http://example.com/x.npz",
    "npz:/no/such.npz",
    "npz:/dev/zero",
    "folder:/no/such",
    "folder:/dev/null",
]

WORKDIRS = [
    "/proc/x",
    "/sys/x",
    "/dev/null",
    "/dev/null/x",
    "{scratch}/good.npz",
    "{scratch}/good.npz/run",
    "{scratch}/runs/other",
]

PROBED = [
    "{scratch}/good.npz",
    "{scratch}/folders",
    "{scratch}/runs/unborn",
    "/dev/null",
    "{scratch}/run/checkpoints/999",
]

PROBES = [
    "--config.step=999",
    "--config.layer=7",
    "--config.layer=-2",
    "--config.batch_size=0",
    "--config.batch_size=1000000000",
    "--config.epochs=0",
    "--config.epochs=1000000000",
    "--config.learning_rates=()",
    "--config.learning_rates=(-1.0,)",
    "--config.learning_rates=('a',)",
    "--config.weight_decays=(-1.0,)",
    "--config.learning_rates=(1e400,)",
    "--config.seed=-1",
    "--config.data.source=npz:/no/such.npz",
    "--config.data.max_corrupt_fraction=nan",
    "--config.step=x",
    "--config.data.source=textures --config.data.train_split=no",
    "--config.batch_size=1.5",
]
