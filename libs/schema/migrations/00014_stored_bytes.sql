-- What tenants have stored, for those that have a limit on it. Owner: ingest-service.
-- +goose Up

-- One look at several tenants: stored_bytes opens this for itself.
CREATE POLICY stored_bytes_read ON usage_positions FOR SELECT TO mtm_ingest
    USING (current_setting('app.across_tenants', true) = 'stored_bytes');
GRANT SELECT (tenant_id, bytes, removed_bytes) ON usage_positions TO mtm_ingest;

-- Of each of the given tenants the bytes of all messages that are counted, and of those that were removed of them. What is stored is
-- the difference, and what was stored since the last count. It opens the policy above for its own query. (A SET clause would need a
-- right that an owner who is no superuser does not have.)
-- +goose StatementBegin
CREATE FUNCTION stored_bytes(tenants uuid[]) RETURNS TABLE (tenant uuid, counted bigint, removed bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.across_tenants', 'stored_bytes', true);
    RETURN QUERY SELECT asked.id, coalesce(p.bytes, 0), coalesce(p.removed_bytes, 0)
        FROM unnest(tenants) AS asked (id) LEFT JOIN public.usage_positions p ON p.tenant_id = asked.id;
    PERFORM set_config('app.across_tenants', '', true);
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION stored_bytes(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION stored_bytes(uuid[]) TO mtm_ingest;
