-- The search for a time ends at the horizon. Owner: query-service.
-- +goose Up

-- The first and the last message of a tenant were looked for among all: where somebody had written a hundred thousand and not
-- committed them, every search stepped over each of those. Nothing above the horizon belongs to a page, so the search
-- ends there, in the newest epoch; as "epoch = … AND xid < …", since PostgreSQL does not end a scan at the second member of a row
-- comparison. And a time that falls into the gap between two transactions is answered with the last message of the one and
-- the first of the other, so that a page neither reads the rest of a big transaction nor stops inside it. The function is that
-- of migration 3 in everything else.
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
        WHERE tenant_id = tenant AND epoch < newest ORDER BY epoch, xid, ord LIMIT 1;
    IF NOT FOUND THEN
        SELECT epoch, xid, ord, created_at INTO lo FROM messages
            WHERE tenant_id = tenant AND epoch = newest AND xid < horizon ORDER BY epoch, xid, ord LIMIT 1;
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
