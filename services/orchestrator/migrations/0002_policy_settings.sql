-- How points are made and sent, as crate `replication` writes it. An instance of the version before leaves it out, and a setting that it does
-- not say has its default.
ALTER TABLE policies
    ADD COLUMN replication jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(replication) = 'object');
