# The whole job: `make finetune`. The whole test: `make test`. Both install what they need.
#
#   DATA=DIR      folder with train.csv and, if you have it, unlabelled.csv (or DATA=FILE.csv, the labelled file alone)
#   CONFIG=FILE   a config of configs/; by default unsw-nb15 where its data are found, synthetic flows where not
#   RUN=DIR       where the run goes; by default runs/<name of the config>
#   SET='a.b=1'   settings that replace those of the config, separated by spaces

SHELL := /bin/bash
CARGO ?= cargo
BIN := target/release/nids-mixer

ifndef CONFIG
DATA ?= $(patsubst %/train.csv,%,$(firstword $(wildcard data/unsw-nb15/train.csv ../shared/data/unsw-nb15/train.csv)))
CONFIG := $(if $(DATA),configs/unsw-nb15.yaml,configs/synthetic.yaml)
endif
RUN ?= runs/$(basename $(notdir $(CONFIG)))

ifneq ($(wildcard $(DATA)/train.csv),)
data_set := data.train=$(DATA)/train.csv data.unlabelled=$(or $(wildcard $(DATA)/unlabelled.csv),null)
else ifneq ($(DATA),)
data_set := data.train=$(DATA) data.unlabelled=null
endif
options = --config $(CONFIG) --run $(RUN) $(foreach setting,$(data_set) $(SET),--set '$(setting)')

.PHONY: all setup setup-test build mpi pretrain encode finetune bench check test fuzz sanitize deny fmt docs clean

all: finetune

## Debian packages for building and running
setup:
	@scripts/setup build

## and those for testing
setup-test:
	@scripts/setup test

build: setup
	$(CARGO) build --release --locked -p nids-mixer

## the same for several processes: `mpirun -n 4 target/release/nids-mixer pretrain ...` (docs/scaling.md)
mpi:
	@scripts/setup mpi
	$(CARGO) build --release --locked -p nids-mixer --features mpi

## stage 1, from the start
pretrain: build
	$(BIN) pretrain $(options)

## stage 2, after stage 1 if that has not run
encode: build
	@test -f $(RUN)/manifest-pretrain.json || $(BIN) pretrain $(options)
	$(BIN) encode $(options)

## stage 3, after stages 1 and 2 if those have not run; ends with a table of metrics
finetune: build
	@test -f $(RUN)/manifest-pretrain.json || $(BIN) pretrain $(options)
	@test -f $(RUN)/manifest-encode.json || $(BIN) encode $(options)
	$(BIN) finetune $(options)

## how fast this machine is, as JSON: four fixed shapes, pretraining and verdicts of CONFIG
bench: build
	@env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN) bench --config $(CONFIG) --json $(foreach setting,$(SET),--set '$(setting)')

## format, lints and unit tests of the crates that have changed: about a minute on a warm tree
check:
	@scripts/check

## everything that a change must pass; ends with what could not be tested here
test: setup-test
	@scripts/skipped clear
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) nextest run --workspace --locked
	scripts/skipped run
	$(CARGO) test --doc --workspace --locked
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked
	scripts/examples
	scripts/end-to-end
	@scripts/skipped note scripts/spark-demo "takes more than three minutes, and downloads pyspark and a Java: run it by hand"
	@scripts/skipped list

## every fuzz target for FUZZ_SECONDS; `make test` has the smoke among its tests
FUZZ_SECONDS ?= 60
fuzz: setup
	scripts/fuzz $(FUZZ_SECONDS)

## the kernels' tests with AddressSanitizer
sanitize:
	scripts/sanitize

## licences, sources and advisories of the dependencies
deny:
	scripts/deny

fmt:
	$(CARGO) fmt --all

docs:
	$(CARGO) doc --workspace --no-deps --open

clean:
	$(CARGO) clean
