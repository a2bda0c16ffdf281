-- The limits of tenants. Owner: tenant-service; the other services see those in force.
-- +goose Up

-- Columns without a volatile default do not touch the rows. The lock waits for who uses the table, and others behind it: so not for
-- long.
SET LOCAL lock_timeout = '3s';

-- overrides are those that the tenant has of its own, NULL in a row of a version of the registry that knows of none. limits are those
-- in force, what the defaults of the installation add included; a key that is absent means: no limit. Beside them are workers and
-- max_attempts as they were when limits was written: where the columns of these names differ, a version that knows of no limits has
-- changed them since.
ALTER TABLE tenants
    ADD COLUMN overrides jsonb CHECK (jsonb_typeof(overrides) = 'object'),
    ADD COLUMN limits    jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object');

-- For the list of tenants in one state.
CREATE INDEX tenants_state ON tenants (state, created_at, id) WHERE state <> 'deleted';

-- A function cannot be given another result. The versions before this one name the columns that they read, and go on.
DROP FUNCTION registered_tenants(uuid, integer);
DROP FUNCTION registered_among(uuid[]);

-- Up to a thousand tenants that are not deleted, in the order of their ids, behind the one given.
-- +goose StatementBegin
CREATE FUNCTION registered_tenants(behind uuid, page integer)
RETURNS TABLE (tenant uuid, desired text, concurrency integer, attempts integer, version bigint, limits jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT id, state, workers, max_attempts, generation, limits FROM public.tenants
    WHERE id > behind AND state <> 'deleted' ORDER BY id LIMIT least(page, 1000)
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION registered_tenants(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registered_tenants(uuid, integer) TO mtm_ingest;

-- Those of the given tenants that the registry has ever known, the deleted ones included. A tenant that it does not know is not
-- a deleted one: the registry may have been restored from an old backup.
-- +goose StatementBegin
CREATE FUNCTION registered_among(ids uuid[])
RETURNS TABLE (tenant uuid, desired text, concurrency integer, attempts integer, version bigint, limits jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT id, state, workers, max_attempts, generation, limits FROM public.tenants WHERE id = ANY (ids)
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION registered_among(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registered_among(uuid[]) TO mtm_ingest;
