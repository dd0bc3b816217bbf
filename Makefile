# make demo    three embedded sites serve orders, one is lost, a report says what held
# make check   format, vet, build, lint, fast tests; under 3 minutes once things are built
# make test    everything, with real Kafka and real Consul; the stages are in tests/stages
# make fuzz    random input for every decoder, FUZZTIME (10m) for each; make fuzz FUZZ=Produce for some
# make soak    random faults on real parts under load, SOAKTIME (2h), from SEED
# make bench   spillway mirror run beside MirrorMaker 2 and a plain copy, gateways beside haproxy; reports are in .cache/bench

CACHE := $(shell echo $${SPILLWAY_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/spillway})
LINTER := $(CACHE)/golangci-lint-$(shell cat tests/lint/go.mod tests/lint/go.sum | sha256sum | cut -c 1-8)

# Built and not run by "go run", which adds a line of its own after a failure.
CI := .cache/ci/ci

.PHONY: demo check test fuzz soak bench lint $(CI)

demo:
	go run ./cmd/spillway demo

check: $(CI)
	@$(CI) build unit

test: $(CI)
	@$(CI)

FUZZTIME ?= 10m
FUZZ ?= .

# Go runs one target at a time. What is found lands in testdata/fuzz beside the test.
fuzz:
	@for package in $$(git grep --untracked -l '^func Fuzz' -- '*_test.go' | xargs -n 1 dirname | sort -u); do \
		targets=$$(go test -list '^Fuzz.*$(FUZZ)' ./$$package) || exit 1; \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./$$package || exit 1; \
		done; \
	done

SOAKTIME ?= 2h
SEED ?= $(shell date +%s)

soak:
	go test -count=1 -tags e2e -v -timeout 24h -run TestFaults ./tests/faults -seed $(SEED) -for $(SOAKTIME)

bench:
	go test -count=1 -tags e2e -v -timeout 90m ./tests/bench/mirrors -out $(CURDIR)/.cache/bench
	go test -count=1 -tags e2e -v -timeout 30m ./tests/bench/gateways -out $(CURDIR)/.cache/bench

$(CI):
	@go build -o $@ ./tests/ci

# The tag e2e is on everything that needs real servers; all else runs in check.
lint: $(LINTER)
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt -w $$unformatted"; exit 1; }
	go build ./...
	go vet ./...
	go vet -tags e2e ./...
	GOLANGCI_LINT_CACHE=$(CURDIR)/.cache/golangci $(LINTER) run --timeout 10m --allow-serial-runners

$(LINTER):
	mkdir -p $(CACHE)
	cd tests/lint && GOFLAGS=-mod=readonly go build -o $@.$$$$ github.com/golangci/golangci-lint/v2/cmd/golangci-lint && mv $@.$$$$ $@
