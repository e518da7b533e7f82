# Every target makes .venv first. Another Python: make test PYTHON=python3.13 VENV=.venv313
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help train real test test-slow user-reports parity distributed lint docs notebooks benchmark clean

help:
	@echo "make train        train the quickstart: Chinese to English in five minutes"
	@echo "make real         the same on 3,674 real sentences, too few for a translator, in twenty minutes"
	@echo "make test         the fast tests"
	@echo "make test-slow    these and the long checks"
	@echo "make user-reports what users of other toolkits reported, and whether it is right here"
	@echo "make parity       the same numbers as PyTorch, Hugging Face and CTranslate2 give"
	@echo "make distributed  several processes on this machine; programs compiled for TPUs"
	@echo "make lint         ruff"
	@echo "make docs         the documentation, as a site in site/"
	@echo "make notebooks    runs the notebooks"
	@echo "make clean        removes environments and caches"
	@echo "make benchmark    training speed beside PyTorch (needs --data, see benchmarks/)"

train: $(VENV)/installed
	$(BIN)/python launch.py

real: $(VENV)/installed
	$(BIN)/python launch.py --config=experiments/hsk_zh_en.py

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow" --durations=30 $(PYTEST_FLAGS)

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q $(PARALLEL) --durations=30 $(PYTEST_FLAGS)

user-reports: $(VENV)/installed-parity
	$(BIN)/python tests/user_reports/table.py

parity: $(VENV)/installed-parity
	@$(BIN)/python -c 'import ctranslate2, safetensors, torch, transformers'  # or tests would skip
	$(BIN)/python -m pytest -q tests/parity tests/interop $(PYTEST_FLAGS)

# Without JAX_PLATFORMS, libtpu looks for a TPU first, and says at length that there is none.
distributed: $(VENV)/installed-dev
	$(BIN)/pip install -q -e ".[tpu]"
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q tests/parallel/test_processes.py tests/planning/test_plan.py \
	    $(PYTEST_FLAGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict --quiet

notebooks: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q tests/test_notebooks.py $(PYTEST_FLAGS)

benchmark: $(VENV)/installed
	$(BIN)/pip install -q -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/train_step.py $(BENCHMARK_FLAGS)

$(VENV)/bin/pip:
	@command -v $(PYTHON) > /dev/null || { echo "there is no $(PYTHON): apt install python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed, and $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	    || { echo "Python's venv is missing: apt install python3-venv (Debian, Ubuntu)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt pyproject.toml setup.py | $(VENV)/bin/pip
	$(BIN)/pip install -q -e ".[hsk,inside,tensorboard]"
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/pip install -q -r requirements-dev.txt
	@touch $@

$(VENV)/installed-parity: requirements-parity.txt $(VENV)/installed-dev
	$(BIN)/pip install -q -r requirements-parity.txt
	@touch $@

# An environment of its own: the site's tools read docstrings, and import nothing of ours.
$(VENV)/installed-docs: requirements-docs.txt | $(VENV)/bin/pip
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/pip install -q -r requirements-docs.txt
	@touch $@

clean:
	rm -rf .venv* .pytest_cache .ruff_cache
