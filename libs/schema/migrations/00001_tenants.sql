-- The registry of tenants. Owner: tenant-service.
-- +goose Up
-- Every service waits for the version that it needs, so each may read the history.
GRANT SELECT ON goose_db_version TO mtm_tenant, mtm_ingest, mtm_query;

CREATE TABLE tenants (
    id                   uuid        PRIMARY KEY,
    name                 text        NOT NULL,
    workers              integer     NOT NULL CHECK (workers > 0),
    -- How often a message is tried before it becomes a dead letter; 0 leaves it to the configuration.
    max_attempts         integer     NOT NULL DEFAULT 0 CHECK (max_attempts >= 0),
    -- A deleted tenant stays as a tombstone: its id is retired for ever.
    state                text        NOT NULL CHECK (state IN ('active', 'suspended', 'deleting', 'deleted')),
    -- Rises with every change; the relay publishes what lags.
    generation           bigint      NOT NULL DEFAULT 1,
    published_generation bigint      NOT NULL DEFAULT 0,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    deleted_at           timestamptz
);

CREATE INDEX tenants_page ON tenants (created_at, id) WHERE state <> 'deleted';
CREATE INDEX tenants_unpublished ON tenants (id) WHERE published_generation < generation AND state <> 'deleted';

GRANT SELECT, INSERT, UPDATE ON tenants TO mtm_tenant;
