-- What is open is asked for all the time, and is little beside what has ended.
CREATE INDEX jobs_open ON jobs (created_at DESC, id DESC) WHERE ended_at IS NULL;
