# The front door: `make demo` and `make test` on a machine that has Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# test processes; tests of one file share what they compile, and the longest ones do not come last. Where a process dies,
# the tests end: pytest-xdist would start another and then wait for ever.
JOBS ?= 2
# folder of the benchmark's results; one that holds results already is refused
BENCH_OUT ?= runs/bench-$(shell date +%Y%m%d-%H%M%S)
PYTEST := $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder --max-worker-restart=0 --durations=12

.PHONY: demo study test test-slow soak smoke check versions bench gpu gpu-program gpu-guard gpu-windows clean

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} found, 3.11 to 3.13 needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

demo: $(STAMP)
	$(BIN)/python -m sarwmix_jax.cli.main demo --workdir=demo_output
	@echo "the results lie in $(CURDIR)/demo_output"

# under an hour on two free cores: what pretraining gives for few labels, and what the weighting changes
study: $(STAMP)
	$(BIN)/python -m sarwmix_jax.cli.main study --config=study_labels:short --workdir=study_output/labels
	$(BIN)/python -m sarwmix_jax.cli.main study --config=study_weighting:short --workdir=study_output/weighting

test: versions
	$(PYTEST)

test-slow: versions
	$(PYTEST) -m "(slow or torch) and not soak" --durations=40

# the long forms of tests: minutes each, and damage by the hundred; SOAK_SEED=N for other damage
soak: versions $(VENV)/.torch
	SOAK_COUNT=200 $(PYTEST) -m "soak or damage" -s --timeout=7200

# what a new Python or JAX breaks first, in about two minutes: make smoke PYTHON=python3.13 VENV=.venv313
smoke: versions
	$(PYTEST) -m smoke

versions: $(STAMP)
	@$(BIN)/python -c 'import importlib.metadata as m, platform as p; print("Python", p.python_version(), "with jax", m.version("jax"))'

check: versions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the requirement alone, as setup.cfg states it: the package itself stays as it is installed
TORCH = $(shell $(BIN)/python -c 'import configparser as c; p = c.ConfigParser(); p.read("setup.cfg"); print(next(w for w in p["options.extras_require"]["torch"].split() if w.startswith("torch>")))')
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# where there is no NVIDIA GPU, the build for CPUs, if its index can be reached: the other one has gigabytes of CUDA
$(VENV)/.torch: $(STAMP)
	$(BIN)/python -c 'import torch' 2>/dev/null || \
	  { ! nvidia-smi >/dev/null 2>&1 && $(PIP) --retries=1 --timeout=10 --index-url=$(CPU_INDEX) '$(TORCH)' 2>/dev/null; } || \
	  { echo "installing $(TORCH) from the usual package index"; $(PIP) '$(TORCH)'; }
	touch $@

# a few minutes on two cores; PyTorch is installed for the comparison alone
bench: $(VENV)/.torch
	$(BIN)/python -m benchmarks --device=cpu --rounds=5 --round-seconds=6 --budget=10 --out=$(BENCH_OUT)

# where an NVIDIA GPU is at hand: tests of the kernels on it, then the benchmark of docs/speed.md, within half an hour
gpu: $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[cuda12]"
	$(BIN)/python -m pytest -m gpu tests/models tests/training/test_kernels.py tests/benchmarks
	$(BIN)/python -m benchmarks --device=gpu --fed --profile --budget=25 --out=$(BENCH_OUT)

# an environment of its own, for JAX would ask every program of the usual one for GPUs; about 220 MB are downloaded
GPU_VENV ?= $(VENV)-gpu
GPU ?= h200
$(GPU_VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	version=$$($(GPU_VENV)/bin/python -c 'import jax; print(jax.__version__)'); \
	  $(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[gpu-program]" \
	  jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version
	touch $@

# what the pretraining step of base would ask of a GPU, without one: minutes on two cores
gpu-program: $(GPU_VENV)/.installed
	$(GPU_VENV)/bin/python -m benchmarks.gpu_program --gpu=$(GPU) $(GPU_ARGS)

# fails where the step at a small depth has more kernels, bytes or memory than the stored result
gpu-guard: $(GPU_VENV)/.installed
	$(GPU_VENV)/bin/python -m benchmarks.gpu_program --check benchmarks/gpu_programs/*_shallow_*.json

# whether the package's own kernels compile for every window and LayerNorm of the published models: minutes
gpu-windows: $(GPU_VENV)/.installed
	$(GPU_VENV)/bin/python -m benchmarks.gpu_program.windows

clean:
	rm -rf $(VENV) $(GPU_VENV) demo_output study_output
