-- Dead letters keep the properties of their message. Owner: ingest-service.
-- +goose Up

-- What the producer gave with the message, headers included, byte by byte as on the wire (AMQP 0-9-1, section 4.2.6.1). NULL:
-- recorded by an earlier version, which kept content_type and, of the headers, a rendering in JSON. Those columns stay for these
-- rows; of new ones content_type alone is filled.
-- A column without a default does not touch the rows. The lock waits for who uses the table, and others behind it: so not for long.
SET LOCAL lock_timeout = '3s';
ALTER TABLE dead_letters ADD COLUMN properties bytea;
