-- AMQP credentials of tenants. Owner: tenant-service.
-- +goose Up

-- A row is there before its user in the broker, and goes after it, so that a crash leaves no user that no row knows; one that there is
-- all the same is removed. The password is nowhere but in the answer to its request. A row is
--   neither issued nor revoked   while the user is being made; if it stays so, the maker has died, and both are removed;
--   issued                       usable, unless missing: the broker has lost the user or somebody has deleted it;
--   revoked                      until the broker has deleted the user; then the row goes as well.
-- Those of a tenant are revoked in the transaction of its deletion, whatever they are. No tenant reads this table: administrators do.
CREATE TABLE credentials (
    id         uuid        PRIMARY KEY,
    tenant     uuid        NOT NULL REFERENCES tenants,
    name       text        NOT NULL,
    username   text        NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    issued_at  timestamptz,
    missing    boolean     NOT NULL DEFAULT false,
    revoked_at timestamptz
) WITH (vacuum_truncate = off);
CREATE INDEX credentials_page ON credentials (tenant, created_at, id);
CREATE INDEX credentials_unfinished ON credentials (created_at) WHERE issued_at IS NULL OR revoked_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON credentials TO mtm_tenant;

-- Since when the tenant wants an exchange of its own: its first credential. NULL: it wants none.
ALTER TABLE tenants ADD COLUMN exchange_since timestamptz;
CREATE INDEX tenants_exchange ON tenants (exchange_since) WHERE exchange_since IS NOT NULL;

-- Up to a thousand tenants that want one and are not being deleted, behind the one given in the order of their ids: those that have
-- wanted it for no longer than recent, or all of them.
-- +goose StatementBegin
CREATE FUNCTION exchanges_wanted(behind uuid, page integer, recent interval) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT id FROM public.tenants
    WHERE exchange_since > coalesce(now() - recent, '-infinity') AND state IN ('active', 'suspended') AND id > behind
    ORDER BY id LIMIT least(page, 1000)
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION exchanges_wanted(uuid, integer, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION exchanges_wanted(uuid, integer, interval) TO mtm_ingest;
