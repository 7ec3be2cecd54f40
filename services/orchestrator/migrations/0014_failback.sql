-- Failback as one run (R-FB). Nothing is taken away from what an instance of before may write.
ALTER TABLE runs DROP CONSTRAINT runs_operation_check;
ALTER TABLE runs ADD CONSTRAINT runs_operation_check CHECK (operation IN (
    'protect', 'unprotect', 'test-failover', 'planned-failover', 'unplanned-failover', 'reverse-replicate', 'failback'));
