"""Eight CPU devices for every test, and programs that are compiled once, whichever test or process asks for them."""

import os
import pathlib

import pytest

# XLA reads the flags once, when jax starts. Programs that run for a moment are compiled quickly; the processes that
# tests start compile as a user's do.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"

# What commands.launch sets for TensorFlow, for tests that call a command's run() and for the processes that they start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Where all workers, and the processes that tests start, keep what they compiled."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    settings = {
        "jax_compilation_cache_dir": str(folder / "compiled"),
        "jax_compilation_cache_max_size": 2**32,  # any size makes jax lock the folder
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }
    import jax

    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps():
    """Frees compiled programs: they take memory maps, and Linux gives a process no memory beyond 65,530 of them."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        import jax

        jax.clear_caches()
