-- The limits of tenants. Owner: tenant-service; the other services see those in force.
-- +goose Up

-- overrides are those that the tenant has of its own, NULL where a version of the registry wrote the row that knows of none; limits
-- are those in force, what the defaults of the installation add included. A key that is absent from limits means: no limit.
ALTER TABLE tenants ADD COLUMN overrides jsonb, ADD COLUMN limits jsonb NOT NULL DEFAULT '{}';

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
