# Two commands: `make train` shows steadyq learning, `make test` checks everything. `make help` lists the rest.
# Needs git, make and Python 3.11 or 3.12 with venv; with a C++ compiler training is faster.

# Chosen by measurement on seeds 100 to 104, so that it has learned after about four minutes on two cores (docs/train.md). A
# short warm-up and narrow networks: the recipe's defaults are for longer runs. bfloat16 where the CPU multiplies it fast.
TRAIN_ENV    ?= walker-stand
TRAIN_FRAMES ?= 30000
TRAIN_SEED   ?= 0
TRAIN_OUT    ?= runs/make-train
TRAIN_MORE   ?= --width 256 --learning-starts 1000 --eval-every 5000 --log-every 2500 --precision $(PRECISION)
PRECISION    ?= $(shell grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo 2>/dev/null && echo bfloat16 || echo float32)

# The first Python that fits; choose another with `make PYTHON=/path/to/python3.12 ...`
FITS    = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c '$(FITS)' >/dev/null 2>&1 && echo $$python && break; done)
BIN     = .venv/bin

.DEFAULT_GOAL := help
.PHONY: help train test slow bench format install clean

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1	/' | expand -t 18

train: install  ## train crossq_wn for a few minutes, then film what it learned
	$(BIN)/steadyq train crossq_wn --env $(TRAIN_ENV) --frames $(TRAIN_FRAMES) --seeds $(TRAIN_SEED) \
		$(TRAIN_MORE) --out $(TRAIN_OUT) --overwrite
	$(BIN)/steadyq evaluate $(TRAIN_OUT) --episodes 5 --film-strip $(TRAIN_OUT)/film_strip.png
	@echo
	@echo 'Done; see $(TRAIN_OUT)/film_strip.png and $(TRAIN_OUT)/learning_curve.png. Three commands to try next:'
	@echo '  $(BIN)/steadyq report $(TRAIN_OUT) --out report.html      one page about the run, next to published curves'
	@echo '  $(BIN)/steadyq export $(TRAIN_OUT) policy.onnx            the policy, for a robot or another program'
	@echo '  $(BIN)/steadyq resume $(TRAIN_OUT) --frames 60k           twice as long, bit-exactly as if it had been one run'

test: install  ## format, lint, types and tests, in about four minutes on two cores
	@echo 'format, lint, types and tests: about four minutes on two cores, more the first time'
	@echo '== format (ruff)'
	@$(BIN)/ruff format --check
	@echo '== lint (ruff)'
	@$(BIN)/ruff check
	@echo '== types (mypy)'
	@$(BIN)/mypy
	@echo '== tests (pytest)'
	@$(BIN)/pytest -n 2 --dist worksteal

slow: install  ## the learning checks that take minutes
	$(BIN)/pytest -m slow

bench: install benchmarks/.venv/installed  ## measure speed against the peers and the machine; an hour, alone
	$(BIN)/python -m benchmarks --peers benchmarks/.venv/bin/python

benchmarks/.venv/installed: benchmarks/peers.txt
	'$(PYTHON)' -m venv --clear benchmarks/.venv
	benchmarks/.venv/bin/pip install --disable-pip-version-check -r $<
	@touch $@

format: install  ## rewrite the source in its one style
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

install: .venv/installed  ## make .venv with the tested versions (again if pyproject.toml or constraints.txt changed)

.venv/installed: pyproject.toml constraints.txt
	@'$(PYTHON)' -c '$(FITS)' 2>/dev/null || { \
		echo 'steadyq needs Python 3.11 or 3.12 (dm_control cannot be installed on later ones yet), and' \
		'$(if $(PYTHON),$(PYTHON) is neither,none is on the path); name one: make PYTHON=/path/to/python3.12 ...' >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
		echo '$(PYTHON) cannot make virtual environments; on Debian and Ubuntu:' \
		"apt-get install $$('$(PYTHON)' -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; }
	test -x $(BIN)/pip || '$(PYTHON)' -m venv --clear .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev,onnx,ray]'
	@touch $@

clean:  ## remove .venv and all caches; runs/ stays
	rm -rf .venv benchmarks/.venv .mypy_cache .pytest_cache .ruff_cache build
	find src tests benchmarks tools -name __pycache__ -prune -exec rm -rf {} +
