"""The import rule and the rooms: who may import whom, and which names belong to one module alone."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "simclr_jax"

# Rooms of each level in the order in which they may import one another; a package is one room.
LEVELS = """
losses optim models augment bounds geometry studies

data keys state passes steps supervised workdir checksums launcher peers

parallel placement checkpoint preemption writer schedule evaluate interop

parts probing results fitting

pretrain plan preview check_data command_line
linear_eval knn_eval lbfgs_eval finetune diagnose draw report ablate
encoder export_features import_weights export_weights

__main__
"""
LEVELS = [level.split() for level in LEVELS.split("\n\n")]
ORDERED = {1, 3}  # levels whose rooms may import those before them; in the others siblings never import each other
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def place(name: str) -> tuple[int, int]:
    return next((level, rooms.index(name)) for level, rooms in enumerate(LEVELS) if name in rooms)


def imports(path: pathlib.Path) -> set[str]:
    """Full names of all modules and members that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(path: pathlib.Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def rooms_imported(path: pathlib.Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("simclr_jax.")}


def may_import(importer: str, imported: str) -> bool:
    (high, i), (low, j) = place(importer), place(imported)
    return importer == imported or low < high or (low == high and high in ORDERED and j < i)


def names(path: pathlib.Path) -> set[str]:
    """Every identifier and attribute that a file uses."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path):
    wrong = [other for other in rooms_imported(path) if not may_import(room(path), other)]
    assert not wrong, f"{path.name} must not import {wrong}"


def test_the_rule_refuses_what_it_must():
    assert may_import("steps", "losses") and may_import("steps", "state") and may_import("pretrain", "parts")
    assert not may_import("losses", "steps")
    assert not may_import("losses", "optim")
    assert not may_import("state", "steps")
    assert not may_import("pretrain", "linear_eval")
    assert not may_import("checkpoint", "parallel")
    assert not may_import("checkpoint", "parts")


def owners(test) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for path in FILES if test(path)}


def test_tensorflow_stays_in_the_input_and_in_what_reads_its_checkpoints():
    users = owners(lambda path: packages(path) & {"tensorflow", "tensorflow_datasets"})
    assert users == {"interop/google_files.py"} | {f"augment/{name}.py" for name in ("host", "decode", "planes")} | {
        f"data/{name}.py" for name in ("pipeline", "reading", "tfds")
    }


def test_jax_stays_out_of_the_input():
    assert not owners(lambda path: room(path) == "data" and packages(path) & {"jax", "flax", "optax"})


def test_devices_are_named_in_parallel_alone():
    names_of_devices = {"pmap", "device_count", "local_device_count", "process_index", "distributed", "local_devices"}
    users = owners(lambda path: "jax" in packages(path) and names(path) & names_of_devices)
    assert users - {"parts.py"} == {"parallel.py"}
    assert "jax.device_count" not in (PACKAGE / "parts.py").read_text()


def test_orbax_is_named_in_checkpoint_alone():
    assert owners(lambda path: "orbax" in packages(path)) == {"checkpoint.py"}


def test_onnx_which_may_not_be_installed_is_named_in_its_room_alone():
    assert owners(lambda path: packages(path) & {"onnx", "onnxruntime"}) == {"interop/onnx.py"}


def test_matplotlib_is_named_by_the_pictures_alone():
    assert owners(lambda path: "matplotlib" in packages(path)) == {"evaluate/pictures.py", "evaluate/plots.py"}


def test_config_dicts_stop_at_keys_schedule_and_the_drivers():
    users = owners(lambda path: "ml_collections" in packages(path))
    assert users <= {"keys.py", "schedule.py", *(f"{name}.py" for rooms in LEVELS[3:] for name in rooms)}


def test_configs_hold_values_only():
    for path in (ROOT / "configs").glob("*.py"):
        assert packages(path) <= {"ml_collections", "configs"}, path


def test_modules_are_small_and_have_names():
    for path in [*FILES, ROOT / "train.py", ROOT / "eval_linear.py"]:
        assert path.stem not in ("utils", "helpers", "common"), path
        assert len(path.read_text().splitlines()) <= 350, path
    assert len((ROOT / "train.py").read_text().splitlines()) <= 60
    assert len((ROOT / "eval_linear.py").read_text().splitlines()) <= 60


def test_all_but_the_input_imports_without_tensorflow():
    modules = [
        ".".join(["simclr_jax", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        for path in FILES
        if not packages(path) & {"tensorflow", "tensorflow_datasets"}
    ]
    blocked = "import sys; sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None\n"
    code = blocked + "\n".join(f"import {module}" for module in modules)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert "simclr_jax.steps" in modules and "simclr_jax.encoder" in modules and "simclr_jax.data.sources" in modules


# What others wrote is data. These run, or may run, programs that are hidden in it.
PROGRAMS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "torch", "runpy", "code", "codeop"}
RUNNERS = {"eval", "exec", "compile", "__import__", "execfile"}
MEMBERS = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "subprocess", "importlib.import_module"}


def runs_programs(code: str) -> list[str]:
    """What in a program's text opens data from elsewhere in a way that may run programs in it."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [name for name in modules if name.split(".")[0] in PROGRAMS | MEMBERS]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            safe = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
            unsafe_load = called.split(".")[-1] in ("load", "read_array", "open_memmap") and called.split(".")[0] in (
                "np",
                "numpy",
            )
            found += [called] * (called in RUNNERS | MEMBERS or (unsafe_load and not safe))
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append("allow_pickle")
    return found


@pytest.mark.parametrize("path", [*FILES, ROOT / "train.py", ROOT / "eval_linear.py"], ids=lambda path: path.name)
def test_nothing_that_is_read_is_run(path):
    assert not runs_programs(path.read_text())


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from torch import load",
        "import torch.serialization",
        "eval(text)",
        "exec(open(path).read())",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=safe)",
        "numpy.lib.format.read_array(file)",
        "read(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "importlib.import_module(name)",
    ],
)
def test_what_would_run_it_is_found(code):
    assert runs_programs(code)


def test_what_only_reads_is_not():
    assert not runs_programs("np.load(path, allow_pickle=False)\njson.loads(text)\nmodel.load(x)\nre.compile(x)")
