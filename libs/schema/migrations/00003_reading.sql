-- What query-service needs beyond the tables. Owner: query-service.
-- +goose Up

-- Finds where the messages of a tenant pass a time, in the reading order: "below" is a message created before the time,
-- "above" is a message created at it or later, and next to nothing lies between the two. Either is null where there is no
-- such message. There is no index on created_at; this probes the index of the reading order, a few dozen buffers in all.
--
-- created_at does not quite rise along the reading order: it is when a transaction began, its xid when it first wrote.
-- Where no transaction waits longer than s between the two, and the clock is not set back, this holds of any message m:
--   m created before t - s          => every message before m was created before t;
--   m created at t + s or later     => every message after m was created at t or later.
-- (p before q means that p got its xid no later than q, so p began by then, and q began at most s earlier.)
-- So both answers are safe to skip to, whichever messages the search happens to probe; it only has to come close.
--
-- The search keeps one message on each side and narrows the range of epochs, then of xids, between them. It guesses the
-- xid from the time, as xids rise evenly in good times, and halves the range after every guess that did not.
-- +goose StatementBegin
CREATE FUNCTION message_position(
    tenant uuid, at timestamptz,
    OUT below_epoch integer, OUT below_xid xid8, OUT below_ord integer,
    OUT above_epoch integer, OUT above_xid xid8, OUT above_ord integer
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp
-- A generic plan would lock the partitions of all tenants.
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    -- Messages closer than this are close enough: the caller allows for many times as much.
    near CONSTANT interval := '1 second';
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
    SELECT epoch, xid, ord, created_at INTO lo FROM messages
        WHERE tenant_id = tenant ORDER BY epoch, xid, ord LIMIT 1;
    SELECT epoch, xid, ord, created_at INTO hi FROM messages
        WHERE tenant_id = tenant ORDER BY epoch DESC, xid DESC, ord DESC LIMIT 1;
    IF lo.epoch IS NULL THEN
        RETURN;
    END IF;
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

    below_epoch := lo.epoch; below_xid := lo.xid; below_ord := lo.ord;
    above_epoch := hi.epoch; above_xid := hi.xid; above_ord := hi.ord;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION message_position(uuid, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION message_position(uuid, timestamptz) TO mtm_query;

-- Seconds for which the transaction that holds back the reading order has been open, 0 if there is none: the oldest
-- transaction of the cluster, in any database, that has written. Null if the owner of the schema may not see the
-- transactions of others (it has to be a member of pg_read_all_stats).
-- +goose StatementBegin
CREATE FUNCTION reading_horizon_age() RETURNS double precision
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE') THEN
        coalesce((
            SELECT extract(epoch FROM clock_timestamp() - since)
            FROM (
                SELECT backend_xid AS xid, xact_start AS since FROM pg_stat_activity WHERE backend_xid IS NOT NULL
                UNION ALL
                SELECT transaction, prepared FROM pg_prepared_xacts
            ) AS writing
            ORDER BY age(xid) DESC LIMIT 1
        ), 0)::double precision
    END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION reading_horizon_age() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION reading_horizon_age() TO mtm_query;
