# Needs Python >= 3.11, bash and make; every target makes .venv first. Another Python: make PYTHON=/path/to/python3 ...
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO_HOME := $(CURDIR)/.demo
export PYTHON
# Set in many images; without bytecode a tick of the watchdog costs three times as much, and the suite makes many.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test slurm lint soak rehearse story bench bench-trainer docs lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: $(INSTALLED)  ## train a CLIP model on handwritten digits, from nothing (under 6 minutes on 2 cores)
	CLIPCTL_HOME=$(DEMO_HOME) $(BIN)/clipctl launch demo --name demo-$$(date -u +%Y%m%d-%H%M%S) --follow -y
	@echo "To look around: export CLIPCTL_HOME=$(DEMO_HOME) PATH=$(CURDIR)/$(BIN):\$$PATH; clipctl status --all"

test: slurm lint  ## lint, types, import contracts and the whole test suite
	$(BIN)/python -m pytest -n 3 --dist loadgroup

lint: $(INSTALLED)  ## ruff, mypy --strict, the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

slurm:
	@.ci/slurm

soak: slurm $(INSTALLED)  ## the same tests with large counts (hours)
	CLIPCTL_SOAK=1 $(BIN)/python -m pytest -n 3 --dist loadgroup --timeout 7200

rehearse: slurm $(INSTALLED)  ## launch l14-laion2b on an emulated cluster of 96 x 4, with 384 real ranks
	$(BIN)/python -m tests.rehearse

story: slurm $(INSTALLED)  ## the card's history and H/14's on 96 x 4, told by the watchdog alone; SEED=7 draws one instead
	$(BIN)/python -m tests.story $(if $(SEED),--seed $(SEED))

bench: $(INSTALLED)  ## costs as ratios, so that they hold on any machine
	$(BIN)/python -m tests.bench.status
	$(BIN)/python -m tests.bench.tick

bench-trainer: $(INSTALLED)  ## our trainer beside open_clip_train, in pairs: speed, start, memory, stop for a checkpoint
	$(BIN)/python -m tests.bench.trainer

docs: $(INSTALLED)  ## write the tables of README.md that come from the code
	$(BIN)/python -m tests.readme_parts --write

lock:  ## requirements.lock after a change of pyproject.toml; remove the file first to take the newest of everything
	$$(.ci/bootstrap uv) pip compile pyproject.toml --all-extras --group dev --universal --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements.lock

clean:  ## all that these targets made, the demo's runs included
	rm -rf .venv .uv .demo dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find clipctl trainer tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml .ci/bootstrap
	.ci/bootstrap
	@touch $@
