# make quickstart | make test | make lint | make docs | make dist | make try-dist | make bench | make bench-input |
# make bench-loss | make bench-probes | make bench-step | make bench-gpu | make bench-compiled | make chaos: each sets up
# .venv first if needed.
PYTHON ?= python3
VENV := .venv
RUN ?= runs/quickstart
BIN := $(VENV)/bin
TRIED := build/wheel
# Steps on a CPU allocate their memory each time: huge pages avoid about 100,000 page faults per GB.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart test lint docs dist try-dist bench bench-input bench-loss bench-probes bench-step bench-gpu bench-compiled chaos constraints clean

quickstart: $(VENV)/.installed
	$(BIN)/python train.py --config=configs/quickstart.py --workdir=$(RUN) $(TRAIN_FLAGS)
	$(BIN)/python eval_linear.py --workdir=$(RUN) $(PROBE_FLAGS)

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation, into site/. It opens from its files; a broken link ends the build.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Source archive and wheel, into dist/, as a package index would take them.
dist: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*

# Installs the wheel of dist/ into an empty environment, away from this folder, and uses it there.
try-dist:
	rm -rf $(TRIED) && $(PYTHON) -m venv $(TRIED)
	$(TRIED)/bin/pip install --quiet --constraint constraints.txt dist/*.whl
	cd $(TRIED) && bin/simclr-jax --version
	cd $(TRIED) && bin/simclr-jax preview --config=quickstart --images=2 && test -s preview.png
	rm -rf $(TRIED)

# Short versions of all CPU benchmarks, in one table: under 15 minutes on 2 cores.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/all.py

# Compares with torchvision if it is installed; see benchmarks/RESULTS.md.
bench-input: $(VENV)/.installed
	$(BIN)/python benchmarks/input.py $(BENCH_FLAGS)

# Time and memory of NT-Xent in its forms; quarter of an hour on 2 cores. BENCH_FLAGS="--images 512 2048" is a minute.
bench-loss: $(VENV)/.installed
	$(BIN)/python benchmarks/loss.py $(BENCH_FLAGS)

# Nearest neighbours compared with FAISS, L-BFGS with scikit-learn; needs `pip install faiss-cpu`. Hours on 2 cores, most of
# them scikit-learn's sweep: BENCH_FLAGS="--only knn fit" is half an hour.
bench-probes: $(VENV)/.installed
	$(BIN)/python benchmarks/probes.py $(BENCH_FLAGS)

# The pretraining step compared with PyTorch's, if installed, and the cost of the loop around it; about 5 minutes on 2
# cores. BENCH_FLAGS="--encoder=resnet_tiny" is faster.
bench-step: $(VENV)/.installed
	$(BIN)/python benchmarks/step.py $(BENCH_FLAGS)

# The rows that need a GPU, docs/gpu.md. BENCH_FLAGS="--rehearse --budget=900 --out=/tmp/gpu" tries them at toy sizes.
bench-gpu: $(VENV)/.installed
	$(BIN)/python benchmarks/gpu.py $(BENCH_FLAGS)

# The step as compiled for GPUs and TPUs, without having one; needs '.[plan-gpu,plan-tpu]'. Hours on 2 cores:
# BENCH_FLAGS="--only 'CIFAR ResNet-18, 512 on h100'" is minutes.
bench-compiled: $(VENV)/.installed
	$(BIN)/python benchmarks/compiled.py $(BENCH_FLAGS)

# Kills, stops and damages runs and tries bad input; almost an hour on 2 cores.
chaos: $(VENV)/.installed
	$(BIN)/python benchmarks/chaos.py $(CHAOS_FLAGS)

$(VENV)/.installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("simclr_jax needs Python 3.11 or newer; $(PYTHON) is %d.%d. Use: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .[test]
	@touch $@

$(VENV)/.docs $(VENV)/.release: $(VENV)/.%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .[$*]
	@touch $@

# Rewrites constraints.txt from setup.py for every supported Python. Needs uv.
constraints:
	uv pip compile setup.py --extra test --extra docs --extra release --universal --python-version 3.11 --no-annotate --no-header --upgrade --output-file constraints.txt

clean:
	rm -rf $(VENV)
