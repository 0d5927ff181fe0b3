"""Installs simclr_jax and says why each dependency is here."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

# Loggers that config.log.to names. The first W&B whose login can be told not to ask.
WANDB = ["wandb>=0.31"]
# The tracking client alone: mlflow itself brings a web server, pandas, docker and 30 more. SQLAlchemy and alembic are
# what it lacks for a store of its own in RUN, a SQLite file: MLflow 3 no longer writes folders of files.
MLFLOW = ["mlflow-skinny>=3", "sqlalchemy", "alembic"]

setup(
    name="simclr_jax",
    version=re.search('__version__ = "(.*)"', (HERE / "simclr_jax/__init__.py").read_text())[1],
    description="SimCLR in JAX/Flax: pretraining, checkpoints and linear probes on CPU, GPU and TPU.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    author="The simclr_jax authors",
    keywords="self-supervised learning, contrastive learning, SimCLR, representation learning, JAX, Flax, TPU",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["simclr_jax", "simclr_jax.*"]), "simclr_jax.configs.recipes"],
    # The files of configs/ are simclr_jax.configs of a wheel; in a clone simclr_jax/configs leads to them.
    package_dir={"simclr_jax.configs": "configs"},
    package_data={"simclr_jax": ["py.typed"], "simclr_jax.evaluate": ["report.html"]},
    entry_points={"console_scripts": ["simclr-jax = simclr_jax.__main__:main"]},
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
        # Asynchronous, atomic checkpoints. 1.0 puts another API in the place of this one.
        "orbax-checkpoint>=0.12,<1",
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
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "docs": [  # make docs
            "mkdocs-material",  # the site's theme, which brings mkdocs and needs no network
            "mkdocstrings[python]",  # the reference, from docstrings
        ],
        # Compilers for --plan --target without a device: NVIDIA's, without the libraries that run programs.
        # Of these cudart alone, 3 MB, without which jax's plug-in and TensorFlow complain at every start.
        "plan-gpu": ["jax[cuda12-local]", "nvidia-cuda-nvcc-cu12>=12.6.85", "nvidia-cuda-runtime-cu12"],
        "plan-tpu": ["jax[tpu]"],
        "mlflow": MLFLOW,
        "onnx": ["onnx", "onnxruntime"],  # export onnx, and what tries the file
        "release": ["build", "twine"],  # make dist
        "tiff": ["tifffile"],  # reads TIFF of 2 or more than 3 channels, of which Pillow knows few kinds
        "tpu": ["jax[tpu]"],
        "wandb": WANDB,
        "test": [
            *MLFLOW,
            *WANDB,
            "hypothesis",  # makes the bad input of tests/whole/test_hostile.py
            "ipykernel",  # runs the notebooks
            "markdown-it-py",  # independent reader of the cards of exported files
            "mypy",  # types of the public surface
            "nbclient",  # runs the notebooks, too
            "onnx",
            "onnxruntime",  # computes what exported files hold
            "pytest",
            "pytest-xdist",  # spreads the suite over the cores
            "ruff",
            "setuptools>=77",  # builds the wheel that the tests install
            "scikit-image",  # independent oracle for HSV and blur
            "tifffile",  # writes TIFF of many channels, and reads them as the extra tiff does
        ],
    },
)
