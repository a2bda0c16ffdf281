-- What ingest-service sees of the registry, and what its instances know of each other. Owner: ingest-service.
-- +goose Up

-- The control channel is a hint and the registry the truth, for ingest-service too: a channel that has lost or mixed up what it
-- was told is noticed by comparison. These three functions are all that ingest-service sees of the registry: no names, no times.
--
-- A number of changes that rises with every change of any tenant, since no row is ever removed and every change raises a
-- generation: as long as it stays the same there is nothing to compare. It reads the table once: 2 ms at 10,000 tenants.
-- +goose StatementBegin
CREATE FUNCTION registry_version() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) || '.' || coalesce(sum(generation), 0) FROM public.tenants
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION registry_version() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry_version() TO mtm_ingest;

-- Up to a thousand tenants that are not deleted, in the order of their ids, behind the one given.
-- +goose StatementBegin
CREATE FUNCTION registered_tenants(behind uuid, page integer)
RETURNS TABLE (tenant uuid, desired text, concurrency integer, attempts integer, version bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT id, state, workers, max_attempts, generation FROM public.tenants
    WHERE id > behind AND state <> 'deleted' ORDER BY id LIMIT least(page, 1000)
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION registered_tenants(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registered_tenants(uuid, integer) TO mtm_ingest;

-- Those of the given tenants that the registry has ever known, the deleted ones included. A tenant that it does not know is not
-- a deleted one: the registry may have been restored from an old backup.
-- +goose StatementBegin
CREATE FUNCTION registered_among(ids uuid[])
RETURNS TABLE (tenant uuid, desired text, concurrency integer, attempts integer, version bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT id, state, workers, max_attempts, generation FROM public.tenants WHERE id = ANY (ids)
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION registered_among(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registered_among(uuid[]) TO mtm_ingest;

-- When an instance of ingest-service was last heard in the control channel, written by itself. One that cannot reach the channel
-- learns from it whether the others can, and have its share of the work by now.
CREATE TABLE ingest_instances (
    instance text        PRIMARY KEY,
    heard_at timestamptz NOT NULL
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest_instances TO mtm_ingest;
