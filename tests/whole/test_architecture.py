"""The import rule and the rooms: who may import whom, and which names belong to one module alone."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "simclr_jax"

# What each room imports of the others.
MAY_IMPORT = {
    "losses": "",
    "models": "",
    "augment": "",
    "data": "augment",
    "runtime": "augment.recipe models.network",
    "training": "losses models augment data runtime",
    "evaluate": "losses models augment data runtime training",
    "interop": "models augment runtime.config",
    "commands": "losses models augment data runtime training evaluate interop configs",
    "__main__": "commands",
}
FOR_ALL = "runtime.registry"  # any room may import it, and it imports nothing of ours
CONFIGS = PACKAGE / "configs"  # in a clone it leads to the top-level folder; values only, which commands start from
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py" and CONFIGS not in path.parents
)


def room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


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


def ours(path: pathlib.Path) -> set[str]:
    """What a file imports of the package: "runtime.config", "losses.nt_xent"."""
    return {name.removeprefix("simclr_jax.") for name in imports(path) if name.startswith("simclr_jax.")}


def may_import(importer: str, imported: str) -> bool:
    rooms = [importer, FOR_ALL, *MAY_IMPORT[importer].split()]
    return any(imported == name or imported.startswith(f"{name}.") for name in rooms)


def names(path: pathlib.Path) -> set[str]:
    """Every identifier and attribute that a file uses."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path):
    wrong = [other for other in ours(path) if not may_import(room(path), other)]
    assert not wrong, f"{path.name} must not import {wrong}"


def test_the_rule_refuses_what_it_must():
    assert may_import("training", "losses.nt_xent") and may_import("runtime", "augment.recipe.Recipe")
    assert not may_import("losses", "models.resnet") and not may_import("training", "evaluate.knn")
    assert may_import("losses", "runtime.registry.Registry") and not may_import("losses", "runtime.config.shown")
    assert not may_import("runtime", "augment.device") and not may_import("interop", "runtime.checkpoint")


def test_what_all_may_import_imports_nothing_of_ours():
    assert not ours(PACKAGE / f"{FOR_ALL.replace('.', '/')}.py")


def test_no_file_imports_what_another_keeps_to_itself():
    private = {(path.name, name) for path in FILES for name in ours(path) if name.rsplit(".", 1)[-1].startswith("_")}
    assert not private


def test_files_do_not_import_in_a_circle():
    files = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
    }
    graph = {name: {part for full in ours(path) if (part := within(full, files))} for name, path in files.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def within(full: str, files) -> str | None:
    """The file that a name is of: "losses" of "losses.nt_xent"."""
    return full if full in files else full.rpartition(".")[0] if full.rpartition(".")[0] in files else None


def test_the_package_has_nine_rooms():
    rooms = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    faces = {"__init__.py", "__main__.py", "py.typed"}
    assert rooms == ({*MAY_IMPORT, "configs"} | faces) - {"__main__"}
    assert {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"__pycache__"} == {
        *rooms,
        "whole",
        "support",
    } - {"configs"} - faces


def owners(test) -> set[str]:
    return {str(path.relative_to(PACKAGE)) for path in FILES if test(path)}


def test_tensorflow_stays_in_the_input_and_in_what_reads_its_checkpoints():
    users = owners(lambda path: packages(path) & {"tensorflow", "tensorflow_datasets"})
    assert users == {"interop/google_files.py"} | {f"augment/{name}.py" for name in ("host", "decode", "host_ops")} | {
        f"data/{name}.py" for name in ("pipeline", "reading", "tfds")
    }


def test_jax_stays_out_of_the_input():
    users = owners(lambda path: room(path) == "data" and packages(path) & {"jax", "flax", "optax"})
    assert users == {"data/feed.py"}


def test_devices_and_processes_are_named_in_their_files_alone():
    names_of_devices = {"pmap", "device_count", "local_device_count", "process_index", "distributed", "local_devices"}
    users = owners(lambda path: "jax" in packages(path) and names(path) & names_of_devices)
    assert users - {"training/trainer.py"} == {"runtime/devices.py", "runtime/processes.py"}
    assert "jax.device_count" not in (PACKAGE / "training/trainer.py").read_text()


def test_orbax_is_named_in_array_files_alone():
    assert owners(lambda path: "orbax" in packages(path)) == {"runtime/array_files.py"}


def test_onnx_which_may_not_be_installed_is_named_in_its_room_alone():
    assert owners(lambda path: packages(path) & {"onnx", "onnxruntime"}) == {"interop/onnx.py", "interop/onnx_graph.py"}


def test_tifffile_which_may_not_be_installed_is_imported_where_it_is_used():
    assert owners(lambda path: "tifffile" in packages(path)) == {"augment/bands.py"}
    at_once = ast.parse((PACKAGE / "augment/bands.py").read_text()).body
    assert "tifffile" not in {alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names}


def test_loggers_which_may_not_be_installed_are_named_in_one_file_that_imports_them_when_they_are_asked_for():
    assert owners(lambda path: packages(path) & {"wandb", "mlflow"}) == {"runtime/trackers.py"}
    at_once = ast.parse((PACKAGE / "runtime/trackers.py").read_text()).body
    named = {alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module for node in at_once if isinstance(node, ast.ImportFrom)}
    assert "math" in named and not {name.split(".")[0] for name in named} & {"wandb", "mlflow", "tensorboardX"}


def test_matplotlib_is_named_by_the_pictures_alone():
    assert owners(lambda path: "matplotlib" in packages(path)) == {"evaluate/sheets.py", "evaluate/plots.py"}


def test_config_dicts_stop_at_config_schedule_and_what_opens_a_run():
    users = owners(lambda path: "ml_collections" in packages(path) and room(path) != "commands")
    opened = {"training/trainer.py", "evaluate/trained_network.py", "evaluate/probed_run.py"}
    assert users == {"runtime/config.py", "training/schedule.py"} | opened


def test_configs_hold_values_only():
    for path in (ROOT / "configs").rglob("*.py"):
        assert packages(path) <= {"ml_collections", "simclr_jax"} and ours(path) <= {
            f"configs.{name.stem}" for name in (ROOT / "configs").glob("*.py")
        }, path


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
    assert {"simclr_jax.training.step", "simclr_jax.evaluate.encoder", "simclr_jax.data.sources"} <= set(modules)


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
