-- Retention and erasure of messages, and retention of dead letters. Owner: ingest-service; query-service reads the positions.
-- +goose Up

-- Retention removes a prefix of the tenant's reading order: everything up to and including this position is removed. No row: nothing
-- is. Whoever looks for the first message begins here, instead of walking over the index entries of what was removed.
CREATE TABLE retention_positions (
    tenant_id uuid    PRIMARY KEY,
    epoch     integer NOT NULL,
    xid       xid8    NOT NULL,
    ord       integer NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, vacuum_truncate = off);
ALTER TABLE retention_positions ENABLE ROW LEVEL SECURITY;
ALTER TABLE retention_positions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON retention_positions USING (tenant_id = (SELECT app_tenant()));
GRANT SELECT ON retention_positions TO mtm_query, mtm_ingest;

-- The functions below act as the owner on dead letters, of one tenant as every other. Dead letters come and go from now on, and a
-- vacuum that shortens a table holds back all readers. The lock waits for who uses the table, and others behind it: so not for long.
SET LOCAL lock_timeout = '500ms';
ALTER POLICY tenant_only ON dead_letters TO PUBLIC;
ALTER TABLE dead_letters SET (vacuum_truncate = off, toast.vacuum_truncate = off);

-- The laxer of a limit as its caller knows it and as the registry has it; NULL, which is none, if either has none. What was removed does
-- not come back, so it takes more than a control channel that has mixed up tenants. Of a tenant that the registry has never known the
-- caller's counts. For functions of the owner.
-- +goose StatementBegin
CREATE FUNCTION retention_limit(tenant uuid, limit_name text, given bigint) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN t.id IS NULL THEN nullif(given, 0)
        WHEN given > 0 AND (t.limits ->> limit_name)::bigint > 0 THEN greatest(given, (t.limits ->> limit_name)::bigint)
    END
    FROM (SELECT) AS always LEFT JOIN public.tenants t ON t.id = tenant
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION retention_limit(uuid, text, bigint) FROM PUBLIC;

-- One step of retention, for the tenant of the transaction: removes the oldest messages while they are older than max_seconds, or more
-- than max_bytes are stored (as counted for the usage); 0 is no limit. It is 500 messages at most, and ends with the one that makes
-- 1 MiB. removed is how many, freed is their size. more: the step was full, or somebody else is at it. overdue is for how many seconds
-- the oldest message was too old when the step began.
--
-- Removed is a prefix of the reading order that ends before the first message that is to be kept, so a message that is too old may
-- stay because one before it is younger: created_at steps back by 30 s at most (migration 3). Nothing behind the usage position is
-- removed: there everything is counted, and every writer before it has ended. Boundary and usage move in the same transaction.
--
-- It reads before it writes, and nothing of payloads unless they were stored without their size: a transaction that has an id holds back
-- all readers. One that finds nothing to remove has none. Row-level security does not reach into the partition, which the owner names.
-- +goose StatementBegin
CREATE FUNCTION retain(
    tenant uuid, max_seconds bigint, max_bytes bigint,
    OUT removed bigint, OUT freed bigint, OUT more boolean, OUT overdue double precision
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
-- A partition that has no statistics yet is not to be read from its beginning, and no plan is worth being compiled.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    partition_name CONSTANT text    := 'messages_' || replace(tenant::text, '-', '');
    step_messages  CONSTANT integer := 500;
    step_bytes     CONSTANT bigint  := 1048576;
    deadline  timestamptz; -- what was created before it is too old
    excess    bigint;      -- bytes that are stored beyond max_bytes
    counted   usage_positions;
    boundary  retention_positions;
    last      retention_positions;
    candidate record;
    places    tid[] := '{}';
    gone      bigint;
BEGIN
    removed := 0; freed := 0; more := false; overdue := 0;
    IF tenant IS DISTINCT FROM app_tenant() THEN
        RAISE EXCEPTION 'the transaction is not one of tenant %', tenant USING ERRCODE = 'insufficient_privilege';
    END IF;
    max_seconds := retention_limit(tenant, 'retention_seconds', max_seconds);
    max_bytes := retention_limit(tenant, 'retention_bytes', max_bytes);
    IF max_seconds IS NULL AND max_bytes IS NULL
        OR NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('public.' || partition_name)) THEN
        RETURN;
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtext('retain'), hashtext(tenant::text)) THEN
        more := true;
        RETURN;
    END IF;
    SELECT * INTO counted FROM usage_positions WHERE tenant_id = tenant;
    deadline := coalesce(now() - make_interval(secs => max_seconds), '-infinity');
    excess := coalesce(counted.bytes - counted.removed_bytes - max_bytes, 0);
    IF counted.tenant_id IS NULL OR max_seconds IS NULL AND excess <= 0 THEN
        RETURN;
    END IF;
    SELECT * INTO boundary FROM retention_positions WHERE tenant_id = tenant;
    IF NOT FOUND THEN
        boundary.epoch := (SELECT min(epoch) FROM reading_epochs); boundary.xid := '0'; boundary.ord := 0;
    END IF;
    -- One epoch at a time, as usage_roll_up does. The scan ends with the transaction that is counted last; of a larger one than the step
    -- the rest is not read.
    LOOP
        last := boundary;
        FOR candidate IN EXECUTE format($q$
            SELECT ctid AS place, created_at, bytes AS size, xid, ord FROM %I
            WHERE tenant_id = $1 AND epoch = $2 AND (xid, ord) > ($3, $4) %s ORDER BY epoch, xid, ord LIMIT $5
            $q$, partition_name, CASE WHEN boundary.epoch = counted.epoch THEN 'AND xid <= $6' ELSE '' END)
            USING tenant, boundary.epoch, boundary.xid, boundary.ord, step_messages + 1, counted.xid
        LOOP
            IF removed = 0 THEN
                overdue := greatest(extract(epoch FROM now() - candidate.created_at) - max_seconds, 0);
            END IF;
            EXIT WHEN boundary.epoch = counted.epoch AND (candidate.xid, candidate.ord) > (counted.xid, counted.ord)
                OR candidate.created_at >= deadline AND freed >= excess;
            more := removed = step_messages OR freed >= step_bytes;
            EXIT WHEN more;
            IF candidate.size IS NULL THEN
                EXECUTE format('SELECT octet_length(payload::text) FROM %I WHERE ctid = $1', partition_name)
                    INTO candidate.size USING candidate.place;
            END IF;
            places := places || candidate.place;
            removed := removed + 1;
            freed := freed + candidate.size;
            last.xid := candidate.xid; last.ord := candidate.ord;
        END LOOP;
        EXIT WHEN FOUND OR boundary.epoch >= counted.epoch;
        boundary.epoch := (SELECT min(epoch) FROM reading_epochs WHERE epoch > boundary.epoch); boundary.xid := '0'; boundary.ord := 0;
    END LOOP;
    IF removed = 0 THEN
        RETURN;
    END IF;
    more := more OR last.epoch < counted.epoch;
    -- By their places in the table, since no message ever moves: the reading order would be searched to the end of a transaction.
    EXECUTE format($q$
        WITH gone AS (DELETE FROM %I WHERE ctid = ANY ($1) RETURNING epoch, xid, ord)
        SELECT count(*) FROM gone WHERE epoch = $2 AND (xid, ord) > ($3, $4) AND (xid, ord) <= ($5, $6)
        $q$, partition_name) INTO gone USING places, last.epoch, boundary.xid, boundary.ord, last.xid, last.ord;
    IF gone <> removed THEN
        RAISE EXCEPTION 'messages of tenant % were removed by another transaction', tenant USING ERRCODE = 'serialization_failure';
    END IF;
    INSERT INTO retention_positions AS p (tenant_id, epoch, xid, ord) VALUES (tenant, last.epoch, last.xid, last.ord)
    ON CONFLICT (tenant_id) DO UPDATE SET epoch = excluded.epoch, xid = excluded.xid, ord = excluded.ord;
    PERFORM usage_removed(tenant, removed, freed);
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION retain(uuid, bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION retain(uuid, bigint, bigint) TO mtm_ingest;

-- One step of the retention of dead letters of the tenant of the transaction: those of which the last failure is longer ago than
-- max_seconds, 0 being no limit. Its size is that of a step of retain; more: it was full.
-- +goose StatementBegin
CREATE FUNCTION retain_dead_letters(tenant uuid, max_seconds bigint, OUT removed bigint, OUT more boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    deadline  timestamptz;
    candidate record;
    ids       uuid[] := '{}';
    size      bigint := 0;
BEGIN
    removed := 0; more := false;
    IF tenant IS DISTINCT FROM app_tenant() THEN
        RAISE EXCEPTION 'the transaction is not one of tenant %', tenant USING ERRCODE = 'insufficient_privilege';
    END IF;
    deadline := now() - make_interval(secs => retention_limit(tenant, 'dead_letter_retention_seconds', max_seconds));
    -- The first failure is not later than the last one, and there is an index on it.
    FOR candidate IN
        SELECT id, octet_length(payload) AS size FROM dead_letters
        WHERE tenant_id = tenant AND first_failed_at < deadline AND last_failed_at < deadline
        ORDER BY tenant_id, first_failed_at, id LIMIT 501
    LOOP
        more := cardinality(ids) = 500 OR size >= 1048576;
        EXIT WHEN more;
        ids := ids || candidate.id;
        size := size + candidate.size;
    END LOOP;
    IF ids = '{}' THEN
        RETURN;
    END IF;
    DELETE FROM dead_letters WHERE tenant_id = tenant AND id = ANY (ids) AND last_failed_at < deadline; -- it may have come again
    GET DIAGNOSTICS removed = ROW_COUNT;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION retain_dead_letters(uuid, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION retain_dead_letters(uuid, bigint) TO mtm_ingest;

-- Erases one message of the tenant of the transaction: erased says whether it was stored, dead_letters how many dead letters of it have
-- gone with it. A message that is not counted for the usage yet stays, and so do its dead letters: uncounted then, and the caller counts
-- (usage_roll_up) and tries again. The usage counts it as removed.
-- +goose StatementBegin
CREATE FUNCTION erase_message(tenant uuid, message uuid, OUT erased boolean, OUT letters bigint, OUT uncounted boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    partition_name CONSTANT text := 'messages_' || replace(tenant::text, '-', '');
    stored  record;
    counted usage_positions;
    ids     uuid[];
BEGIN
    erased := false; letters := 0; uncounted := false;
    IF tenant IS DISTINCT FROM app_tenant() THEN
        RAISE EXCEPTION 'the transaction is not one of tenant %', tenant USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- A step of retention must not remove it as well.
    PERFORM pg_advisory_xact_lock(hashtext('retain'), hashtext(tenant::text));
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('public.' || partition_name)) THEN
        EXECUTE format('SELECT epoch, xid, ord, coalesce(bytes, octet_length(payload::text)) AS size FROM %I WHERE tenant_id = $1 AND id = $2',
                       partition_name) INTO stored USING tenant, message;
        erased := stored.epoch IS NOT NULL;
    END IF;
    IF erased THEN
        SELECT * INTO counted FROM usage_positions WHERE tenant_id = tenant;
        IF (stored.epoch, stored.xid, stored.ord) <= (counted.epoch, counted.xid, counted.ord) IS NOT TRUE THEN
            erased := false; uncounted := true;
            RETURN;
        END IF;
    END IF;
    -- A message without an id is stored under that of its dead letter, once it is replayed.
    ids := ARRAY(SELECT id FROM dead_letters WHERE tenant_id = tenant AND coalesce(message_id, id) = message);
    IF erased THEN
        EXECUTE format('DELETE FROM %I WHERE tenant_id = $1 AND id = $2', partition_name) USING tenant, message;
        PERFORM usage_removed(tenant, 1, stored.size);
    END IF;
    IF ids <> '{}' THEN
        DELETE FROM dead_letters WHERE tenant_id = tenant AND id = ANY (ids);
        GET DIAGNOSTICS letters = ROW_COUNT;
    END IF;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION erase_message(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION erase_message(uuid, uuid) TO mtm_ingest;

-- As in migration 6, but that the search for the first message begins at the position of retention.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION message_position(
    tenant uuid, at timestamptz,
    OUT below_epoch integer, OUT below_xid xid8, OUT below_ord integer,
    OUT above_epoch integer, OUT above_xid xid8, OUT above_ord integer
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp
-- A generic plan would lock the partitions of all tenants.
SET plan_cache_mode = force_custom_plan
-- Nor may the plan of a partition that has no statistics yet read all of it and sort.
SET enable_sort = off
AS $$
DECLARE
    -- Messages closer than this are close enough: the caller allows for many times as much.
    near CONSTANT interval := '1 second';
    newest  CONSTANT integer := reading_epoch();
    horizon CONSTANT xid8 := pg_snapshot_xmin(pg_current_snapshot());
    boundary   retention_positions;
    lo         record; -- created before the time
    hi         record; -- created at the time or later, after lo
    probe      record;
    low_epoch  integer;
    high_epoch integer;
    middle     integer;
    low_xid    bigint; -- of lo
    high_xid   bigint; -- no message from here up to hi
    guess      bigint;
    width      bigint;
    halve      boolean := false;
    aim        timestamptz;
BEGIN
    SELECT * INTO boundary FROM retention_positions WHERE tenant_id = tenant;
    -- One epoch at a time, so that a scan begins at the boundary: in its own epoch, between that and the newest, and in the newest.
    SELECT epoch, xid, ord, created_at INTO lo FROM messages
        WHERE tenant_id = tenant AND epoch = boundary.epoch AND epoch < newest AND (xid, ord) > (boundary.xid, boundary.ord)
        ORDER BY epoch, xid, ord LIMIT 1;
    IF NOT FOUND THEN
        SELECT epoch, xid, ord, created_at INTO lo FROM messages
            WHERE tenant_id = tenant AND epoch > coalesce(boundary.epoch, 0) AND epoch < newest ORDER BY epoch, xid, ord LIMIT 1;
    END IF;
    IF NOT FOUND THEN
        IF boundary.epoch IS DISTINCT FROM newest THEN
            boundary.xid := '0'; boundary.ord := 0;
        END IF;
        SELECT epoch, xid, ord, created_at INTO lo FROM messages
            WHERE tenant_id = tenant AND epoch = newest AND (xid, ord) > (boundary.xid, boundary.ord) AND xid < horizon
            ORDER BY epoch, xid, ord LIMIT 1;
    END IF;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT epoch, xid, ord, created_at INTO hi FROM messages
        WHERE tenant_id = tenant AND (epoch, xid) < (newest, horizon) ORDER BY epoch DESC, xid DESC, ord DESC LIMIT 1;
    IF lo.created_at >= at THEN
        above_epoch := lo.epoch; above_xid := lo.xid; above_ord := lo.ord;
        RETURN;
    END IF;
    IF hi.created_at < at THEN
        below_epoch := hi.epoch; below_xid := hi.xid; below_ord := hi.ord;
        RETURN;
    END IF;

    low_epoch := lo.epoch;
    high_epoch := hi.epoch;
    WHILE low_epoch < high_epoch LOOP
        middle := low_epoch + (high_epoch - low_epoch + 1) / 2;
        SELECT epoch, xid, ord, created_at INTO probe FROM messages
            WHERE tenant_id = tenant AND epoch >= middle ORDER BY epoch, xid, ord LIMIT 1;
        IF probe.created_at < at THEN
            lo := probe;
            low_epoch := probe.epoch;
        ELSE
            hi := probe;
            high_epoch := middle - 1;
        END IF;
    END LOOP;

    IF hi.epoch > lo.epoch THEN -- hi is the first message after the epoch of lo: look at the last one in it
        SELECT epoch, xid, ord, created_at INTO probe FROM messages
            WHERE tenant_id = tenant AND epoch = low_epoch ORDER BY epoch DESC, xid DESC, ord DESC LIMIT 1;
        IF probe.created_at < at THEN
            lo := probe;
        ELSE
            hi := probe;
        END IF;
    END IF;

    low_xid := lo.xid::text::bigint;
    high_xid := hi.xid::text::bigint;
    WHILE hi.epoch = low_epoch AND high_xid - low_xid > 1 AND hi.created_at - lo.created_at > near LOOP
        width := high_xid - low_xid;
        IF halve THEN
            guess := low_xid + width / 2;
        ELSE
            -- A little to the far side of the time, so that the next probe closes in from there.
            aim := CASE WHEN at - lo.created_at < hi.created_at - at THEN at + near / 2 ELSE at - near / 2 END;
            guess := low_xid + (width * (extract(epoch FROM aim - lo.created_at) / extract(epoch FROM hi.created_at - lo.created_at)))::bigint;
            guess := least(greatest(guess, low_xid + 1), high_xid - 1);
        END IF;
        SELECT epoch, xid, ord, created_at INTO probe FROM messages
            WHERE tenant_id = tenant AND (epoch, xid) >= (low_epoch, guess::text::xid8) ORDER BY epoch, xid, ord LIMIT 1;
        IF probe.created_at < at THEN
            lo := probe;
            low_xid := probe.xid::text::bigint;
        ELSIF probe.xid < hi.xid THEN
            hi := probe;
            high_xid := guess;
        ELSE -- nothing from the guess up to hi: go on from the message before it
            SELECT epoch, xid, ord, created_at INTO probe FROM messages
                WHERE tenant_id = tenant AND (epoch, xid) < (low_epoch, guess::text::xid8)
                ORDER BY epoch DESC, xid DESC, ord DESC LIMIT 1;
            IF probe.created_at < at THEN
                lo := probe;
                EXIT;
            END IF;
            hi := probe;
            high_xid := probe.xid::text::bigint;
        END IF;
        halve := (high_xid - low_xid) * 2 > width;
    END LOOP;

    -- From one transaction to the next: to the end of the one and the beginning of the other.
    IF (lo.epoch, lo.xid) <> (hi.epoch, hi.xid) THEN
        SELECT epoch, xid, ord, created_at INTO probe FROM messages
            WHERE tenant_id = tenant AND epoch = lo.epoch AND xid = lo.xid ORDER BY epoch DESC, xid DESC, ord DESC LIMIT 1;
        IF probe.created_at < at THEN
            lo := probe;
        ELSE
            hi := probe;
        END IF;
    END IF;
    IF (lo.epoch, lo.xid) <> (hi.epoch, hi.xid) THEN
        SELECT epoch, xid, ord, created_at INTO probe FROM messages
            WHERE tenant_id = tenant AND epoch = hi.epoch AND xid = hi.xid ORDER BY epoch, xid, ord LIMIT 1;
        IF probe.created_at < at THEN
            lo := probe;
        ELSE
            hi := probe;
        END IF;
    END IF;
    -- Or inside a transaction that wrote messages of many times: an import.
    WHILE lo.epoch = hi.epoch AND lo.xid = hi.xid AND hi.ord - lo.ord > 1 AND hi.created_at - lo.created_at > near LOOP
        middle := lo.ord + (hi.ord - lo.ord) / 2;
        SELECT epoch, xid, ord, created_at INTO probe FROM messages
            WHERE tenant_id = tenant AND epoch = lo.epoch AND xid = lo.xid AND ord >= middle ORDER BY epoch, xid, ord LIMIT 1;
        IF probe.created_at < at THEN
            lo := probe;
        ELSIF probe.ord < hi.ord THEN
            hi := probe;
        ELSE -- nothing from the middle up to hi: go on from the message before it
            SELECT epoch, xid, ord, created_at INTO probe FROM messages
                WHERE tenant_id = tenant AND epoch = lo.epoch AND xid = lo.xid AND ord < middle
                ORDER BY epoch DESC, xid DESC, ord DESC LIMIT 1;
            IF probe.created_at < at THEN
                lo := probe;
                EXIT;
            END IF;
            hi := probe;
        END IF;
    END LOOP;

    below_epoch := lo.epoch; below_xid := lo.xid; below_ord := lo.ord;
    above_epoch := hi.epoch; above_xid := hi.xid; above_ord := hi.ord;
END $$;
-- +goose StatementEnd

-- As in migration 4, but with the settings that a partition needs from which messages are removed as fast as they come: a vacuum after
-- each fiftieth rather than each fifth of the rows, at a pace that is no slower than that, and none that shortens the table, which holds
-- back all readers. A TOAST table with a setting of its own has none of its table's. A partition that was made without them is given them
-- the next time that its tenant is verified, which is after each start of ingest-service: a lock on one table at a time, which only
-- disturbs its vacuum.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tenant_attach(tenant uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    partition_name text := 'messages_' || replace(tenant::text, '-', '');
    parent         text;
    settings CONSTANT text := 'autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 1, '
        'vacuum_truncate = off, toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 5000, '
        'toast.autovacuum_vacuum_cost_delay = 1, toast.vacuum_truncate = off';
BEGIN
    -- Two instances may attach the same tenant at once.
    PERFORM pg_advisory_xact_lock(hashtextextended(tenant::text, 0));
    IF EXISTS (SELECT FROM tenant_partitions WHERE id = tenant AND dropped_at IS NOT NULL) THEN
        RAISE EXCEPTION 'tenant % is retired', tenant USING ERRCODE = 'MT001';
    END IF;
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('public.' || partition_name) AND NOT inhdetachpending) THEN
        IF NOT EXISTS (SELECT FROM pg_class, unnest(reloptions) AS option
                       WHERE oid = to_regclass('public.' || partition_name) AND option LIKE 'vacuum_truncate=%') THEN
            BEGIN
                EXECUTE format('ALTER TABLE %I SET (%s)', partition_name, settings);
            EXCEPTION WHEN lock_not_available THEN -- the next time
            END;
        END IF;
        RETURN;
    END IF;
    SELECT 'messages_hash_' || remainder INTO STRICT parent
    FROM generate_series(0, 63) AS remainder
    WHERE satisfies_hash_partition('public.messages'::regclass, 64, remainder, tenant);
    EXECUTE format('CREATE TABLE %I (LIKE messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE INCLUDING COMPRESSION) WITH (autovacuum_analyze_threshold = 1000, %s)', partition_name, settings);
    EXECUTE format('ALTER TABLE %I ALTER COLUMN payload SET STATISTICS 0', partition_name);
    EXECUTE format('GRANT INSERT ON %I TO mtm_ingest', partition_name);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%L)', parent, partition_name, tenant);
    INSERT INTO tenant_partitions (id) VALUES (tenant) ON CONFLICT DO NOTHING;
END $$;
-- +goose StatementEnd

-- As in migration 9, but that the position of retention goes with the table.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tenant_drop(tenant uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    partition_name text := 'messages_' || replace(tenant::text, '-', '');
    parent         regclass;
    seen           usage_positions;
    acting         text := coalesce(current_setting('app.tenant_id', true), '');
    size           text := 'octet_length(payload::text)';
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
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', partition_name);
    -- One that was detached before this migration does not have the column.
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.' || partition_name) AND attname = 'bytes' AND NOT attisdropped) THEN
        size := 'coalesce(bytes, octet_length(payload::text))';
    END IF;
    PERFORM set_config('app.tenant_id', tenant::text, true);
    SELECT * INTO seen FROM usage_positions WHERE tenant_id = tenant;
    EXECUTE format($q$
        INSERT INTO usage_hours AS u (tenant_id, hour, messages, bytes)
        SELECT $1, date_bin('1 hour', created_at, 'epoch'), count(*), sum(%s) FROM %I
        WHERE tenant_id = $1 AND (epoch, xid, ord) > ($2, $3, $4) GROUP BY 2 ORDER BY 2
        ON CONFLICT (tenant_id, hour) DO UPDATE SET messages = u.messages + excluded.messages, bytes = u.bytes + excluded.bytes
        $q$, size, partition_name) USING tenant, coalesce(seen.epoch, 0), coalesce(seen.xid, '0'), coalesce(seen.ord, 0);
    DELETE FROM usage_positions WHERE tenant_id = tenant;
    DELETE FROM retention_positions WHERE tenant_id = tenant;
    PERFORM set_config('app.tenant_id', acting, true);
    EXECUTE format('DROP TABLE %I', partition_name);
    RETURN true;
END $$;
-- +goose StatementEnd
