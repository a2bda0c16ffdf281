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

up: build ## start everything, or only what has died or changed, and print how to use it
	@bin/stack up

down: stack ## stop everything and keep the data
	@bin/stack down

reset: stack ## stop everything and remove the data
	@bin/stack reset

status: stack ## show what is running, and where
	@bin/stack status

logs: stack ## show the newest log lines; NAME=ingest-service for one service, FOLLOW=1 to keep following
	@bin/stack logs $(if $(FOLLOW),--follow) $(NAME)

token: stack ## print a token: TENANT=<id> SCOPE="messages:read messages:write", or SCOPE=tenants:admin
	@bin/stack token $(if $(filter-out undefined,$(origin TENANT)),--tenant "$(TENANT)") --scope "$(SCOPE)"

demo: stack ## send messages through a running stack and check the result; FILE=events.ndjson, N=messages per tenant
	@bin/stack demo $(if $(FILE),--file "$(FILE)") $(if $(N),--messages "$(N)")

# ---- tests and checks ----------------------------------------------------------------------------------------------

# The longest a package may take.
TIMEOUT ?= 15m
# Packages at a time, and tests at a time in each of them: most wait for servers more than they compute. All share one server of each
# kind, which has connections for about thirty tests at a time.
JOBS ?= 3
# Packages that take longest begin first, or the others would have to be waited for and then they.
PKG ?= $(addprefix ./,$(addprefix services/ingest-service/internal/,tenants consumer dlxhealth) e2e/lifecycle e2e/platform e2e/corpus services/query-service/internal/store testkit/backing) work
GOTEST = go run ./testkit/servers/cmd/backing run -- bin/gotestsum --format pkgname-and-test-fails --packages
# Without symbols and DWARF, which no stack trace needs, a program of tests is linked in two thirds of the time. `make lint` vets.
GOTESTFLAGS = -race -count=1 -vet=off -timeout $(TIMEOUT) -p $(JOBS) -parallel $(JOBS) -ldflags='-s -w'

.PHONY: test test-long test-servers test-rabbitmq4 bench chaos fuzz soak lint verify vuln licenses sbom deps fmt generate openapi-lint compose-test
test: bin/gotestsum ## run the tests of every module, with -race, except those of test-long; PKG=./libs/… and RUN=TestName select some
	@tools/compiler
	@$(GOTEST) "$(PKG)" -- $(GOTESTFLAGS) $(if $(RUN),-run '$(RUN)',-short) $(TESTFLAGS)

test-long: bin/gotestsum ## run the tests that take minutes, which `make test` leaves out or makes smaller
	@tools/compiler
	@$(GOTEST) "$$(tools/longtests packages)" -- $(GOTESTFLAGS) -run "$$(tools/longtests names)" $(TESTFLAGS)

# What the servers do with us: the packages that have tests on PostgreSQL, RabbitMQ or NATS and do not serve HTTP.
SERVED = $(addprefix ./,testkit/... testkit/servers/... $(addprefix libs/,postgres amqp/... schema) \
	$(addprefix services/ingest-service/internal/,consumer deadletter dlxhealth provision queuelimit store tenants) \
	services/query-service/internal/store $(addprefix services/tenant-service/internal/,relay status store))
test-servers: ## run the tests whose outcome depends on the version of a server; BACKING=docker or native chooses the servers
	@$(MAKE) test PKG="$(SERVED)"

test-rabbitmq4: ## run the tests that depend on the broker on the newest RabbitMQ 4, from Docker or in a separate Debian (root; minutes, once)
	@tools/rabbitmq4

bench: ## compare the platform with references and alternatives; QUICK=1, PARTS=drain,pages, ROUNDS=5, CHURN=1h (retention)
	@go run ./benchmarks $(if $(QUICK),-quick) $(if $(PARTS),-parts "$(PARTS)") $(if $(ROUNDS),-rounds "$(ROUNDS)") $(if $(CHURN),-churn "$(CHURN)")

# Built first, so that a signal reaches the program itself, which stops its servers.
chaos: ## inject every kind of fault under traffic and check that nothing is lost; DURATION=90s, SEED=n, RATE=messages/s, READER=library, REPORT=file
	@go build -o bin/ ./e2e/chaos
	@bin/chaos $(if $(READER),-reader '$(READER)') $(if $(DURATION),-duration '$(DURATION)') $(if $(SEED),-seed '$(SEED)') $(if $(RATE),-rate '$(RATE)') $(if $(REPORT),-report '$(REPORT)')

fuzz: ## publish messages with arbitrary bytes as properties and headers; DURATION=10m
	@go run ./testkit/servers/cmd/backing run -- go test -count=1 -timeout 0 -run FuzzPublishedProperties -v ./e2e/platform -hostile $(or $(DURATION),10m)

soak: ## run at half capacity and check that memory and connections stay flat; DURATION=30m, RATE=messages/s, REPORT=file
	@go build -o bin/ ./e2e/chaos
	@bin/chaos -soak $(if $(DURATION),-duration '$(DURATION)') $(if $(SEED),-seed '$(SEED)') $(if $(RATE),-rate '$(RATE)') $(if $(REPORT),-report '$(REPORT)')

lint: bin/golangci-lint ## run golangci-lint over every module
	@bin/golangci-lint run $(MODULES:%=%/...)

verify: bin/gofumpt bin/swag bin/openapidoc bin/oapi-codegen ## check go.mod files, generated files and formatting, and that every module builds on its own
	@tools/verify

vuln: bin/govulncheck ## report known vulnerabilities in what the services call
	@tools/vuln

# What is shipped: the services, and the client for those who import it.
SHIPPED = $(SERVICES:%=./services/%) ./client
licenses: bin/sbom ## list the licences of what is built into the services; fails for unknown ones and those that may not be shipped
	@bin/sbom $(SHIPPED)

sbom: bin/sbom ## write bin/sbom.cdx.json, a CycloneDX document of what is built into the services
	@bin/sbom -output bin/sbom.cdx.json $(SHIPPED) && echo "bin/sbom.cdx.json"

deps: ## list dependencies, direct and indirect, behind their newest release; ALL=1 includes those that no binary uses
	@tools/deps

fmt: bin/golangci-lint ## format all Go files
	@bin/golangci-lint fmt $(MODULES:%=%/...)

generate: bin/swag bin/openapidoc ## generate the OpenAPI documents from the comments of the handlers
	@tools/openapi

openapi-lint: bin/swagger bin/openapi-validate ## validate the OpenAPI documents with go-swagger and kin-openapi, and with redocly and spectral if npx is installed
	@tools/openapi-lint

compose-test: stack ## start the services in containers, run the demo against them, and remove everything
	@deployments/compose-test

# ---- tools, pinned in modules of their own ---------------------------------------------------------------------------

# golangci-lint is separate from the others: it takes two minutes to build, and only `make lint` and `make fmt` need it.
bin/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	@echo "building golangci-lint (minutes, once)"
	@GOWORK=off go -C tools/lint build -o ../../bin/ tool
	@touch $@

# Validates the OpenAPI documents and generates clients from them.
bin/swagger: TOOL = github.com/go-swagger/go-swagger/cmd/swagger
bin/oapi-codegen: TOOL = github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen
bin/openapi-validate: TOOL = github.com/getkin/kin-openapi/cmd/validate
bin/swagger bin/oapi-codegen bin/openapi-validate: tools/apispec/go.mod tools/apispec/go.sum
	@GOWORK=off go -C tools/apispec build -o ../../$@ $(TOOL)
	@touch $@

bin/openapidoc: tools/go.mod $(wildcard tools/openapidoc/*)
	@GOWORK=off go -C tools build -o ../$@ ./openapidoc

bin/sbom: tools/go.mod $(wildcard tools/sbom/*)
	@GOWORK=off go -C tools build -o ../$@ ./sbom

bin/gotestsum: TOOL = gotest.tools/gotestsum
bin/gofumpt: TOOL = mvdan.cc/gofumpt
bin/swag: TOOL = github.com/swaggo/swag/cmd/swag
bin/govulncheck: TOOL = golang.org/x/vuln/cmd/govulncheck
bin/gotestsum bin/gofumpt bin/swag bin/govulncheck: tools/go.mod tools/go.sum
	@GOWORK=off go -C tools build -o ../$@ $(TOOL)
	@touch $@
