-- Messages, one partition a tenant, and dead letters. Owner: ingest-service; query-service reads.
-- +goose Up

-- The tenant of the current transaction, set by the service from the verified token or the queue it consumes.
-- +goose StatementBegin
CREATE FUNCTION app_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('app.tenant_id', true), '')::uuid;
-- +goose StatementEnd

-- Messages are read in the order (epoch, xid, ord). Transaction ids start again lower when the database was restored
-- into another cluster or to an earlier time, so each such change begins a new epoch.
CREATE TABLE reading_epochs (
    epoch             integer     PRIMARY KEY,
    system_identifier bigint      NOT NULL,
    timeline          integer     NOT NULL,
    began_at          timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON reading_epochs TO mtm_ingest, mtm_query;

-- +goose StatementBegin
CREATE FUNCTION reading_epoch() RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (SELECT max(epoch) FROM public.reading_epochs);
-- +goose StatementEnd

-- Begins a new epoch if the cluster or its timeline has changed since the last one. Every service calls it for each
-- new connection: such a change always cuts all connections.
-- +goose StatementBegin
CREATE FUNCTION advance_reading_epoch() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    current_system   bigint := (SELECT system_identifier FROM pg_control_system());
    current_timeline integer;
    latest           reading_epochs;
BEGIN
    SELECT * INTO latest FROM reading_epochs ORDER BY epoch DESC LIMIT 1;
    IF pg_is_in_recovery() THEN
        RETURN latest.epoch;
    END IF;
    current_timeline := ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer;
    IF latest.system_identifier = current_system AND latest.timeline = current_timeline THEN
        RETURN latest.epoch;
    END IF;
    LOCK TABLE reading_epochs IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO latest FROM reading_epochs ORDER BY epoch DESC LIMIT 1;
    IF latest.system_identifier = current_system AND latest.timeline = current_timeline THEN
        RETURN latest.epoch;
    END IF;
    INSERT INTO reading_epochs (epoch, system_identifier, timeline)
    VALUES (coalesce(latest.epoch, 0) + 1, current_system, current_timeline);
    RETURN coalesce(latest.epoch, 0) + 1;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION advance_reading_epoch() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION advance_reading_epoch() TO mtm_ingest, mtm_query;
SELECT advance_reading_epoch();

CREATE TABLE messages (
    tenant_id  uuid        NOT NULL,
    id         uuid        NOT NULL,
    payload    jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- The reading order: the writing transaction and the place inside it, per tenant.
    epoch      integer     NOT NULL DEFAULT reading_epoch(),
    xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    ord        integer     NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, id)
) PARTITION BY HASH (tenant_id);
CREATE UNIQUE INDEX messages_reading_order ON messages (tenant_id, epoch, xid, ord);

-- Attaching a list partition costs time in proportion to the partitions that its parent has. 64 hash partitions in
-- between keep that flat to ten thousand tenants and beyond. There is no default partition: a message of a tenant
-- without a partition must not be stored anywhere.
-- +goose StatementBegin
DO $$
BEGIN
    FOR remainder IN 0..63 LOOP
        EXECUTE format('CREATE TABLE messages_hash_%s PARTITION OF messages FOR VALUES WITH (MODULUS 64, REMAINDER %s) PARTITION BY LIST (tenant_id)',
                       remainder, remainder);
    END LOOP;
END $$;
-- +goose StatementEnd

ALTER TABLE messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE messages FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_reads ON messages FOR SELECT TO mtm_ingest, mtm_query
    USING (tenant_id = (SELECT app_tenant()));
CREATE POLICY tenant_writes ON messages FOR INSERT TO mtm_ingest
    WITH CHECK (tenant_id = (SELECT app_tenant()));
GRANT SELECT ON messages TO mtm_query;
GRANT INSERT ON messages TO mtm_ingest;
-- For ON CONFLICT, and for a replay that asks whether a message is stored already; never the payload.
GRANT SELECT (tenant_id, id) ON messages TO mtm_ingest;

-- Which tenants have, and had, a partition. An entry that was dropped retires the id for ever.
CREATE TABLE tenant_partitions (
    id          uuid        PRIMARY KEY,
    attached_at timestamptz NOT NULL DEFAULT now(),
    dropped_at  timestamptz
);
GRANT SELECT ON tenant_partitions TO mtm_ingest;

-- Makes the partition of a tenant, if it is not there. Refuses a retired tenant with SQLSTATE MT001.
--
-- The table is made on its own and then attached, which takes SHARE UPDATE EXCLUSIVE on the parent and disturbs neither
-- readers nor writers; CREATE TABLE … PARTITION OF would take ACCESS EXCLUSIVE. It is empty, so that attaching has
-- nothing to scan and needs no CHECK constraint, which every later insert would pay for.
-- +goose StatementBegin
CREATE FUNCTION tenant_attach(tenant uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    partition_name text := 'messages_' || replace(tenant::text, '-', '');
    parent         text;
BEGIN
    -- Two instances may attach the same tenant at once.
    PERFORM pg_advisory_xact_lock(hashtextextended(tenant::text, 0));
    IF EXISTS (SELECT FROM tenant_partitions WHERE id = tenant AND dropped_at IS NOT NULL) THEN
        RAISE EXCEPTION 'tenant % is retired', tenant USING ERRCODE = 'MT001';
    END IF;
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('public.' || partition_name) AND NOT inhdetachpending) THEN
        RETURN;
    END IF;
    SELECT 'messages_hash_' || remainder INTO STRICT parent
    FROM generate_series(0, 63) AS remainder
    WHERE satisfies_hash_partition('public.messages'::regclass, 64, remainder, tenant);
    EXECUTE format('CREATE TABLE %I (LIKE messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE INCLUDING COMPRESSION)', partition_name);
    EXECUTE format('GRANT INSERT ON %I TO mtm_ingest', partition_name);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%L)', parent, partition_name, tenant);
    INSERT INTO tenant_partitions (id) VALUES (tenant) ON CONFLICT DO NOTHING;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION tenant_attach(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenant_attach(uuid) TO mtm_ingest;

-- Takes the partition of a tenant away and retires the id, in two calls: the first detaches and answers false, the next
-- drops the table and answers true. Detaching needs ACCESS EXCLUSIVE on the parent; it gives up after 200 ms (SQLSTATE
-- 55P03), so that nobody waits longer behind it, and is to be repeated. Dropping a big table holds no lock that
-- another tenant needs. Repeating it after the end is harmless.
-- +goose StatementBegin
CREATE FUNCTION tenant_drop(tenant uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    partition_name text := 'messages_' || replace(tenant::text, '-', '');
    parent         regclass;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(tenant::text, 0));
    INSERT INTO tenant_partitions (id, dropped_at) VALUES (tenant, now())
    ON CONFLICT (id) DO UPDATE SET dropped_at = coalesce(tenant_partitions.dropped_at, excluded.dropped_at);
    IF to_regclass('public.' || partition_name) IS NULL THEN
        RETURN true;
    END IF;
    SELECT inhparent::regclass INTO parent FROM pg_inherits WHERE inhrelid = to_regclass('public.' || partition_name);
    IF parent IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s DETACH PARTITION %I', parent, partition_name);
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', partition_name);
    RETURN true;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION tenant_drop(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenant_drop(uuid) TO mtm_ingest;

-- +goose StatementBegin
CREATE FUNCTION tenant_retired(tenant uuid) RETURNS boolean
LANGUAGE sql STABLE
RETURN EXISTS (SELECT FROM public.tenant_partitions WHERE id = tenant AND dropped_at IS NOT NULL);
-- +goose StatementEnd

-- What could not be stored. The payload is bytes, since it may be anything.
CREATE TABLE dead_letters (
    tenant_id           uuid        NOT NULL,
    id                  uuid        NOT NULL,
    message_id          uuid,
    original_message_id text        NOT NULL DEFAULT '',
    payload             bytea       NOT NULL,
    content_type        text        NOT NULL DEFAULT '',
    headers             jsonb       NOT NULL DEFAULT '{}',
    reason              text        NOT NULL,
    error               text        NOT NULL DEFAULT '',
    attempts            integer     NOT NULL DEFAULT 1,
    -- Rises when the same dead letter comes again; a replay removes only the version that it has replayed.
    version             bigint      NOT NULL DEFAULT 1,
    first_failed_at     timestamptz NOT NULL DEFAULT now(),
    last_failed_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX dead_letters_page ON dead_letters (tenant_id, first_failed_at, id);

ALTER TABLE dead_letters ENABLE ROW LEVEL SECURITY;
ALTER TABLE dead_letters FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON dead_letters TO mtm_ingest
    USING (tenant_id = (SELECT app_tenant())) WITH CHECK (tenant_id = (SELECT app_tenant()));
-- The one look across tenants: dead_letter_stats opens it for itself.
CREATE POLICY stats_read_all ON dead_letters FOR SELECT TO mtm_ingest
    USING (current_setting('app.across_tenants', true) = 'dead_letter_stats');
GRANT SELECT, INSERT, UPDATE, DELETE ON dead_letters TO mtm_ingest;

-- Dead letters per tenant, for the gauges. It opens the policy above for its own query. (A SET clause would need a right
-- that an owner who is no superuser does not have.)
-- +goose StatementBegin
CREATE FUNCTION dead_letter_stats() RETURNS TABLE (tenant_id uuid, letters bigint, oldest timestamptz)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.across_tenants', 'dead_letter_stats', true);
    RETURN QUERY SELECT d.tenant_id, count(*), min(d.first_failed_at) FROM public.dead_letters d GROUP BY d.tenant_id;
    PERFORM set_config('app.across_tenants', '', true);
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION dead_letter_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION dead_letter_stats() TO mtm_ingest;
