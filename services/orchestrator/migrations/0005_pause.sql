-- Who paused replication of an item, when and why. All of it, or nothing.
ALTER TABLE items
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN paused_by text,
    ADD COLUMN paused_why text CHECK (octet_length(paused_why) <= 500),
    ADD CHECK (num_nonnulls(paused_at, paused_by, paused_why) IN (0, 3));

-- The reason that a caller gave, of calls that take one.
ALTER TABLE audit ADD COLUMN why text NOT NULL DEFAULT '';
