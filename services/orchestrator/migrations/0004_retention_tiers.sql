-- What is kept beyond count and age: a list, as crate `replication` writes it.
ALTER TABLE policies
    ADD COLUMN keep_tiers jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(keep_tiers) = 'array');
