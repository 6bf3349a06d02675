# make demo, make test: both set up .venv first. See README.md.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Many processes start here; where Python is told to write no bytecode, each of them would compile all of it again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test pytest test-slurm test-s3 faults must-show lint format bench bench-gpu setup lock clean

demo: setup
	$(BIN)/parapet sweep sweeps/digits.yaml

# One worker more than cores: much of what the slow tests do is waiting. Which tests stay together: tests/conftest.py.
WORKERS = $$(( $$(nproc) + 1 ))
test: setup
	$(MAKE) --no-print-directory --jobs=2 lint pytest

pytest: setup
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8

# What needs a real Slurm, whose Debian packages are installed where that is allowed: jobs, sweeps, faults. Much of it waits.
test-slurm: setup
	PARAPET_TEST_SLURM=1 $(THREADS) $(BIN)/python -m pytest -n 2 tests/slurm tests/faults

# A sweep on a real S3 server whose node vanishes.
test-s3: setup
	PARAPET_TEST_S3=1 $(THREADS) $(BIN)/python -m pytest tests/orchestrate/storage

# One sweep per fault, and everything at once; both write docs/reliability.md. They need a real Slurm's packages, and root.
faults: setup
	$(THREADS) $(BIN)/python tests/faults

must-show: setup
	$(THREADS) $(BIN)/python tests/faults --must-show

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(THREADS) $(BIN)/python tests/bench/steps.py
	$(THREADS) $(BIN)/python tests/bench/sweeps.py
	$(THREADS) $(BIN)/python tests/bench/slurm.py
	$(THREADS) $(BIN)/python tests/bench/tracking.py
	$(THREADS) $(BIN)/python tests/bench/start.py

bench-gpu: setup
	PYTHONPATH=. $(BIN)/python tests/bench/gpu.py

setup: .venv/.current

.venv/.current: pyproject.toml requirements.lock .ci/venv
	bash .ci/venv "$(PYTHON)"
	touch $@

lock: setup
	echo '# Every package that the set-up installs, pinned (a pip constraints file). Made with: make lock' > requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' >> requirements.lock

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
