-- Less work for autovacuum. Owner: ingest-service.
-- +goose Up

-- By default a table is analyzed after 50 rows, and again whenever it has grown by a tenth. Sixty messages for each of a thousand
-- tenants are a thousand tables to analyze, on the processors that take in the next ones (docs/performance.md). No statement of the
-- platform looks into a payload, or has anything to gain from statistics of a few rows. So a partition is analyzed from 1,000
-- rows on, as it is vacuumed, and without its payloads. Partitions that are there already stay as they are.
-- The function is that of migration 2 but for the two lines that say so.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tenant_attach(tenant uuid) RETURNS void
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
    EXECUTE format('CREATE TABLE %I (LIKE messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE INCLUDING COMPRESSION) WITH (autovacuum_analyze_threshold = 1000)', partition_name);
    EXECUTE format('ALTER TABLE %I ALTER COLUMN payload SET STATISTICS 0', partition_name);
    EXECUTE format('GRANT INSERT ON %I TO mtm_ingest', partition_name);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%L)', parent, partition_name, tenant);
    INSERT INTO tenant_partitions (id) VALUES (tenant) ON CONFLICT DO NOTHING;
END $$;
-- +goose StatementEnd
