-- Alerts of items: what was found and has lasted (R-REP-9), as crate `replication` writes them. Derived from facts; any instance may write them.
CREATE TABLE item_alerts (
    item    text PRIMARY KEY REFERENCES items (name) ON DELETE CASCADE,
    alerts  jsonb NOT NULL
);

-- Disks that are left out of protection on purpose. A disk that is neither here nor among the protected ones was added later (R-REP-8).
ALTER TABLE items ADD COLUMN excluded text[] NOT NULL DEFAULT '{}' CHECK (cardinality(excluded) <= 64);
