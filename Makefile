# Two commands do all: `make demo` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := settings.ini setup.py pyproject.toml

.PHONY: demo test docs bench bench-data clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/lrprop demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

docs: $(VENV)/.installed-dev
	$(BIN)/python tools/docs/build.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "lrprop needs Python >= 3.10; name one with: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tools/install_venv.sh
	$(PYTHON) -m venv $(VENV)
	$@ -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(BIN)/python $(SETUP)
	@mkdir -p lrprop
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/long.py

bench-data: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/clips.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/restart.py

clean:
	rm -rf _proc _docs build dist *.egg-info
