-- Activation leases (R-FO-7): what was granted to the active host of an item, written down before the host is told.
ALTER TABLE policies ADD COLUMN activation_lease_ms bigint CHECK (activation_lease_ms BETWEEN 15000 AND 3600000);
CREATE TABLE activation_leases (
    item text PRIMARY KEY REFERENCES items (name) ON DELETE CASCADE,
    host text NOT NULL,
    granted jsonb NOT NULL
);
