# `make demo` runs the whole story, `make test` the tests; each sets .venv up first, once.
#   PYTHON=…             the interpreter to make .venv with (3.11 or later)
#   DATA=../shared/data  the demo on real data packs instead of its own
#   TESTS=…              which tests: TESTS=tests/peft_test.py, TESTS="tests -k prefix"

PYTHON ?=
TESTS ?= tests
RUN = .venv/bin/python
REQUIREMENTS = setup.py pyproject.toml constraints.txt

export JAX_PLATFORMS ?= cpu

.PHONY: demo test lint format clean

demo: .venv/.demo
	$(RUN) -m scripts.demo.run $(if $(DATA),--data=$(DATA))

test: .venv/.test
	$(RUN) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(TESTS)

lint: .venv/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: .venv/.test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf .venv .cache build hyperjax.egg-info hyperjax.tar.gz

# A stamp is touched last, so that an interrupted set-up is taken up again.
.venv/.demo: EXTRAS = seqio
.venv/.test: EXTRAS = seqio,test
# As variables, not as arguments: they also reach the environments in which pip builds packages.
.venv/.demo .venv/.test: export PIP_CONSTRAINT = constraints.txt
.venv/.demo .venv/.test: export PIP_BUILD_CONSTRAINT = constraints.txt
.venv/.demo .venv/.test: .venv/.made $(REQUIREMENTS)
	@echo "Installing the versions of constraints.txt into .venv (minutes, once) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@$(RUN) -c "import sys; sys.version_info >= (3, 14) and print('Python 3.14 or later: the core works; \
	seqio is left out, since its TensorFlow parts have no wheel for this Python.')"
	@touch $@

.venv/.made:
	@python=$$(PYTHON='$(PYTHON)' sh scripts/find_python.sh) && "$$python" -m venv .venv
	@touch $@
