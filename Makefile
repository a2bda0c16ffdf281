# What a person types. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

SERVICES := tenant-service ingest-service query-service
# Every module of the workspace, as folders: go.work is the only list.
MODULES = $(shell go list -m -f '{{.Dir}}')

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- the stack on this machine -------------------------------------------------------------------------------------

.PHONY: build up down reset status logs token demo stack
stack:
	@go build -o bin/ ./deployments/local/stack

build: ## build the services into bin/
	@go build -o bin/ $(SERVICES:%=./services/%) ./deployments/local/stack

up: build ## start everything, or just what has died or changed, and print how to use it
	@bin/stack up

down: stack ## stop everything and keep the data
	@bin/stack down

reset: stack ## stop everything and remove the data
	@bin/stack reset

status: stack ## what runs, and where
	@bin/stack status

logs: stack ## the newest log lines; NAME=ingest-service for one of them, FOLLOW=1 to go on
	@bin/stack logs $(if $(FOLLOW),--follow) $(NAME)

token: stack ## print a token: TENANT=<id> SCOPE="messages:read messages:write", or SCOPE=tenants:admin
	@bin/stack token $(if $(filter-out undefined,$(origin TENANT)),--tenant "$(TENANT)") --scope "$(SCOPE)"

demo: stack ## use a running stack and check what it does; FILE=events.ndjson, N=messages a tenant
	@bin/stack demo $(if $(FILE),--file "$(FILE)") $(if $(N),--messages "$(N)")

# ---- tests and checks ----------------------------------------------------------------------------------------------

# The longest a package may take. The end-to-end tests restart every server and need most of it.
TIMEOUT ?= 15m
PKG ?= work

.PHONY: test test-rabbitmq4 bench chaos fuzz soak lint verify vuln deps fmt generate openapi-lint compose-test
test: bin/gotestsum ## every test of every module, with -race; PKG=./libs/… and RUN=TestName narrow it down
	@tools/compiler
	@go run ./libs/backing/cmd/backing run -- bin/gotestsum --format pkgname-and-test-fails --packages "$(PKG)" -- \
		-race -count=1 -timeout $(TIMEOUT) $(if $(RUN),-run '$(RUN)') $(TESTFLAGS)

test-rabbitmq4: ## what the broker does with us, on the newest RabbitMQ 4: from Docker, else in a Debian of its own (root; minutes, once)
	@tools/rabbitmq4

bench: ## the platform beside the machine's limits and alternatives; QUICK=1, PARTS=drain,pages and ROUNDS=5 are understood
	@go run ./benchmarks $(if $(QUICK),-quick) $(if $(PARTS),-parts "$(PARTS)") $(if $(ROUNDS),-rounds "$(ROUNDS)")

# Built first, so that a signal reaches the program itself, which stops its servers.
chaos: ## every kind of fault under traffic, nothing may be lost; DURATION=90s, SEED=number, RATE=messages a second, REPORT=file
	@go build -o bin/ ./e2e/chaos
	@bin/chaos $(if $(DURATION),-duration '$(DURATION)') $(if $(SEED),-seed '$(SEED)') $(if $(RATE),-rate '$(RATE)') $(if $(REPORT),-report '$(REPORT)')

fuzz: ## arbitrary properties and headers of messages, as bytes, against a platform; DURATION=10m
	@go run ./libs/backing/cmd/backing run -- go test -count=1 -timeout 0 -run FuzzPublishedProperties -v ./e2e/platform -hostile $(or $(DURATION),10m)

soak: ## half of what the machine can do, memory and connections stay flat; DURATION=30m, RATE=messages a second, REPORT=file
	@go build -o bin/ ./e2e/chaos
	@bin/chaos -soak $(if $(DURATION),-duration '$(DURATION)') $(if $(SEED),-seed '$(SEED)') $(if $(RATE),-rate '$(RATE)') $(if $(REPORT),-report '$(REPORT)')

lint: bin/golangci-lint ## golangci-lint over every module
	@bin/golangci-lint run $(MODULES:%=%/...)

verify: bin/gofumpt bin/swag bin/openapidoc ## go.mod files tidy, generated files fresh, every module builds on its own, formatting
	@tools/verify

vuln: bin/govulncheck ## known vulnerabilities in what the services call
	@tools/vuln

deps: ## dependencies, direct and indirect, that are behind their newest release; ALL=1 for those that nothing is built from, too
	@tools/deps

fmt: bin/golangci-lint ## format all Go files
	@bin/golangci-lint fmt $(MODULES:%=%/...)

generate: bin/swag bin/openapidoc ## the OpenAPI documents, from the comments of the handlers
	@for service in $(SERVICES); do tools/openapi "$$service"; done

openapi-lint: bin/swagger ## the OpenAPI documents: go-swagger, and redocly and spectral where npx is
	@tools/openapi-lint

compose-test: stack ## the services in containers, the demo against them, and away with it all
	@deployments/compose-test

# ---- tools, pinned in modules of their own ---------------------------------------------------------------------------

# golangci-lint is apart from the others: it takes two minutes to build, and only `make lint` and `make fmt` need it.
bin/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	@echo "building golangci-lint (minutes, once)"
	@GOWORK=off go -C tools/lint build -o ../../bin/ tool
	@touch $@

# What checks the OpenAPI documents and makes clients from them.
bin/swagger: TOOL = github.com/go-swagger/go-swagger/cmd/swagger
bin/oapi-codegen: TOOL = github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen
bin/swagger bin/oapi-codegen: tools/apispec/go.mod tools/apispec/go.sum
	@GOWORK=off go -C tools/apispec build -o ../../$@ $(TOOL)
	@touch $@

bin/openapidoc: tools/go.mod $(wildcard tools/openapidoc/*.go)
	@GOWORK=off go -C tools build -o ../$@ ./openapidoc

bin/gotestsum: TOOL = gotest.tools/gotestsum
bin/gofumpt: TOOL = mvdan.cc/gofumpt
bin/swag: TOOL = github.com/swaggo/swag/cmd/swag
bin/govulncheck: TOOL = golang.org/x/vuln/cmd/govulncheck
bin/gotestsum bin/gofumpt bin/swag bin/govulncheck: tools/go.mod tools/go.sum
	@GOWORK=off go -C tools build -o ../$@ $(TOOL)
	@touch $@
