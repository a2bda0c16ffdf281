-- Who has changed what. Owner: tenant-service, which shows the events and lets them expire; ingest-service adds to them.
-- +goose Up

-- Append-only for the services: they may add events, nobody but the owner may change or remove one, and what orders and dates an event
-- is not theirs to say.
CREATE TABLE audit_events (
    id         uuid        NOT NULL,
    -- NULL: what concerns no single tenant.
    tenant_id  uuid,
    at         timestamptz NOT NULL DEFAULT now(),
    -- The claims sub and jti of the token, empty where it has none. What the platform does itself has the actor "system" and no request.
    actor      text        NOT NULL,
    token_id   text        NOT NULL DEFAULT '',
    action     text        NOT NULL,
    target     text        NOT NULL,
    -- Only what has changed, and never a secret or a payload.
    before     jsonb,
    after      jsonb,
    request_id text        NOT NULL DEFAULT '',
    -- The reading order, as of messages: a sequence would let a reader pass an event that commits late. The epoch is asked for with
    -- every event: these are rare, and a connection that a standby had before its promotion knows an old one.
    epoch      integer     NOT NULL DEFAULT advance_reading_epoch(),
    xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (epoch, xid, id)
) WITH (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX audit_events_tenant ON audit_events (tenant_id, epoch, xid, id);
CREATE INDEX audit_events_action ON audit_events (action, epoch, xid, id);
CREATE INDEX audit_events_at ON audit_events (at);

GRANT EXECUTE ON FUNCTION advance_reading_epoch() TO mtm_tenant;
GRANT INSERT (id, tenant_id, actor, token_id, action, target, before, after, request_id) ON audit_events TO mtm_tenant, mtm_ingest;
GRANT SELECT ON audit_events TO mtm_tenant;

-- The rights above say who may read and who may remove; ingest-service adds events of the tenant that it acts for, and of no other.
ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY reads ON audit_events FOR SELECT USING (true);
CREATE POLICY expires ON audit_events FOR DELETE USING (true);
CREATE POLICY registry_writes ON audit_events FOR INSERT TO mtm_tenant WITH CHECK (true);
CREATE POLICY tenant_writes ON audit_events FOR INSERT TO mtm_ingest WITH CHECK (tenant_id = (SELECT app_tenant()));

-- Removes the oldest events of at least that age, 500 at most so that the transaction is short, and returns how many these were; fewer
-- than 500 are the last ones. NULL: another instance is at it. Nothing that is younger than a day can be removed by it.
-- +goose StatementBegin
CREATE FUNCTION expire_audit_events(age interval) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed integer;
BEGIN
    IF age IS NULL OR age < interval '1 day' THEN
        RAISE EXCEPTION 'audit events are kept for a day at least' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('expire_audit_events', 0)) THEN
        RETURN NULL;
    END IF;
    -- By their place in the table, whatever the planner knows of it: no event ever moves.
    DELETE FROM public.audit_events WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM public.audit_events WHERE at < now() - age ORDER BY at LIMIT 500));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION expire_audit_events(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION expire_audit_events(interval) TO mtm_tenant;
