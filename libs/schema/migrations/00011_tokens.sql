-- Tokens that the platform has issued. Owner: tenant-service; the other services see which of them were revoked.
-- +goose Up

-- Never the token itself: a row says that there is one, and whose it is. id is its claim jti.
CREATE TABLE tokens (
    id          uuid        PRIMARY KEY,
    tenant_id   uuid        NOT NULL,
    name        text        NOT NULL,
    -- As in the claim scope: separated by spaces.
    scope       text        NOT NULL,
    -- The claim sub of whoever has issued it, "" where that token has none.
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    -- The transaction that revoked it, by which the services read what is new.
    revoked_xid xid8,
    CHECK ((revoked_at IS NULL) = (revoked_xid IS NULL))
) WITH (vacuum_truncate = off);
CREATE INDEX tokens_page ON tokens (tenant_id, id);
CREATE INDEX tokens_living ON tokens (tenant_id) WHERE revoked_at IS NULL;
CREATE INDEX tokens_revoked ON tokens (revoked_xid) WHERE revoked_xid IS NOT NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON tokens TO mtm_tenant;

ALTER TABLE tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON tokens TO mtm_tenant
    USING (tenant_id = (SELECT app_tenant())) WITH CHECK (tenant_id = (SELECT app_tenant()));
-- The two functions below look across tenants. Not "TO" a role: the owner may become another one.
CREATE POLICY owner_all ON tokens
    USING (current_user = (SELECT tableowner FROM pg_catalog.pg_tables WHERE schemaname = 'public' AND tablename = 'tokens'));

-- A deleted tenant's tokens are revoked by the transaction that deletes it, whatever version of the registry that is.
-- +goose StatementBegin
CREATE FUNCTION revoke_tokens_of_tenant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE public.tokens SET revoked_at = now(), revoked_xid = pg_current_xact_id() WHERE tenant_id = NEW.id AND revoked_at IS NULL;
    RETURN NULL;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION revoke_tokens_of_tenant() FROM PUBLIC;
-- The lock is taken from nobody for long.
SET LOCAL lock_timeout = '3s';
CREATE TRIGGER revoke_tokens AFTER UPDATE OF state ON tenants FOR EACH ROW
    WHEN (NEW.state IN ('deleting', 'deleted') AND OLD.state NOT IN ('deleting', 'deleted')) EXECUTE FUNCTION revoke_tokens_of_tenant();

-- The tokens that were revoked by transactions from since on, and the position to give the next time: the oldest transaction that
-- is still running, since it may have revoked some and commit them later. So none is missed, and some come more than once. The
-- position is there in any case, with a NULL for the token if there is none. A position holds for one connection: after a restore
-- or the promotion of a standby transaction ids may be used again, and 0 asks for all. What has been expired for five minutes, more
-- than any clock skew that is allowed for, is left out.
-- +goose StatementBegin
CREATE FUNCTION revoked_tokens(since bigint) RETURNS TABLE (upto bigint, token uuid, expires timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, t.id, t.expires_at
    FROM (SELECT) AS always
    LEFT JOIN public.tokens t ON t.revoked_xid >= since::text::xid8 AND t.expires_at > now() - interval '5 minutes'
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION revoked_tokens(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION revoked_tokens(bigint) TO mtm_tenant, mtm_ingest, mtm_query;
