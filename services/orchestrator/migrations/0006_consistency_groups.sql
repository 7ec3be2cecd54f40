-- Items that share the instants of their points. An item belongs to one group at most.
CREATE TABLE consistency_groups (
    name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
    created timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE items ADD COLUMN consistency_group text REFERENCES consistency_groups (name);
CREATE INDEX items_of_group ON items (consistency_group) WHERE consistency_group IS NOT NULL;
