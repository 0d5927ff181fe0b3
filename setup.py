"""Installs simclr_jax and says why each dependency is here."""

from setuptools import find_packages, setup

setup(
    name="simclr_jax",
    version="0.1.0",
    description="SimCLR in JAX/Flax: pretraining, checkpoints and linear probes on CPU, GPU and TPU.",
    python_requires=">=3.11",
    packages=find_packages(include=["simclr_jax", "simclr_jax.*"]),
    package_data={"simclr_jax.evaluate": ["report.html"]},
    install_requires=[
        "absl-py",  # command-line flags; ml_collections parses configs with it
        "etils[epath]",  # the path type of Orbax
        "filelock",  # keeps a second process out of a run; lets processes share jax's compilation cache
        "flax>=0.12.8",  # Linen modules
        "importlib_resources",  # tensorflow-datasets 4.9.10 imports it without declaring it
        "jax>=0.10.2",
        "jinja2",  # the report: HTML in which nothing of a run is taken for markup
        "matplotlib",  # pictures of views and features
        "ml-collections",  # configs that are Python files with command-line overrides
        "numpy",
        "packaging",  # compares the versions of jax and of the compilers of a plan
        "optax>=0.2.8",  # LARS, SGD, AdamW
        "orbax-checkpoint>=0.12",  # asynchronous, atomic checkpoints
        "pillow",  # decodes what TensorFlow cannot: TIFF, a BMP with a palette, animations
        "psutil",  # how much memory there is, on every system
        "safetensors",  # weights in and out, without pickle
        "scikit-learn",  # t-SNE
        "scipy",  # tests of whether runs differ; jax needs it too
        "tensorboardX",  # TensorBoard files without TensorFlow
        # The input pipeline. The CPU build is enough: the accelerator belongs to JAX.
        'tensorflow-cpu; sys_platform == "linux" and platform_machine == "x86_64"',
        'tensorflow; sys_platform != "linux" or platform_machine != "x86_64"',
        "tensorflow-datasets",
        "tqdm",  # progress bars
    ],
    extras_require={
        "bench": ["faiss-cpu", "torch", "torchvision"],  # what benchmarks/ compares with; see benchmarks/RESULTS.md
        "cuda": ["jax[cuda12]"],
        # Compilers for --plan --target without a device: NVIDIA's, without the libraries that run programs.
        # Of these cudart alone, 3 MB, without which jax's plug-in and TensorFlow complain at every start.
        "plan-gpu": ["jax[cuda12-local]", "nvidia-cuda-nvcc-cu12>=12.6.85", "nvidia-cuda-runtime-cu12"],
        "plan-tpu": ["jax[tpu]"],
        "onnx": ["onnx", "onnxruntime"],  # export onnx, and what tries the file
        "tpu": ["jax[tpu]"],
        "test": [
            "hypothesis",  # makes the bad input of tests/whole/test_hostile.py
            "markdown-it-py",  # independent reader of the cards of exported files
            "onnx",
            "onnxruntime",  # computes what exported files hold
            "pytest",
            "pytest-xdist",  # spreads the suite over the cores
            "ruff",
            "scikit-image",  # independent oracle for HSV and blur
        ],
    },
)
