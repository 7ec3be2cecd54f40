-- A run that waits for its commit may be taken back (R-FO-4): its items are rolling back meanwhile, and it has been rolled back then.
ALTER TABLE items DROP CONSTRAINT items_state_check;
ALTER TABLE items ADD CONSTRAINT items_state_check CHECK (state IN (
    'initial-replication', 'protected', 'planned-failover', 'unplanned-failover', 'commit-pending', 'rolling-back',
    'not-protected', 'reverse-replication', 'unprotecting', 'failed'));

ALTER TABLE runs DROP CONSTRAINT runs_state_check;
ALTER TABLE runs ADD CONSTRAINT runs_state_check CHECK (state IN (
    'running', 'waiting', 'cleaning-up', 'succeeded', 'completed-with-errors', 'failed', 'cancelled', 'rolled-back'));
ALTER TABLE runs ADD CHECK (NOT open OR state <> 'rolled-back');
