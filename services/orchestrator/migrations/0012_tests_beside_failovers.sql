-- A real failover begins while a test runs, which it ends (R-TF-7): one run and one test may have an item in hand.
ALTER TABLE holds DROP CONSTRAINT holds_one_run_per_item;
ALTER TABLE holds ADD CONSTRAINT holds_one_run_and_one_test_per_item PRIMARY KEY (item, test);
