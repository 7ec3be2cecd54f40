-- What the orchestrator knows and has decided. Rows that must not exist are impossible: names are unique, states are listed,
-- generations only grow, one machine belongs to one item, and one item is held by at most one run.

CREATE TABLE sites (
    name        text CONSTRAINT sites_pkey PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 40),
    kind        text NOT NULL CHECK (kind IN ('private-cloud', 'hypervisor', 'vmware', 'physical', 'public-cloud')),
    description text NOT NULL CHECK (octet_length(description) <= 1024),
    created     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE hosts (
    -- site/host
    name           text CONSTRAINT hosts_pkey PRIMARY KEY,
    site           text NOT NULL CONSTRAINT hosts_site_fkey REFERENCES sites (name),
    facts_endpoint text NOT NULL CHECK (facts_endpoint LIKE 'https://%'),
    sink_endpoint  text NOT NULL CHECK (sink_endpoint LIKE 'https://%'),
    created        timestamptz NOT NULL DEFAULT now(),
    CHECK (split_part(name, '/', 1) = site AND split_part(name, '/', 2) <> '' AND split_part(name, '/', 3) = '')
);

-- The latest facts of a host. They stay when the host falls silent: what was known last is what an unplanned failover works with.
CREATE TABLE host_facts (
    host            text PRIMARY KEY REFERENCES hosts (name) ON DELETE CASCADE,
    inventory       jsonb NOT NULL,
    -- By the agent's clock.
    told            timestamptz NOT NULL,
    -- By ours.
    heard           timestamptz NOT NULL,
    connected       boolean NOT NULL,
    -- The boot id under which nothing was left to correct on the host.
    settled_boot_id text
);

CREATE TABLE policies (
    name                  text CONSTRAINT policies_pkey PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 63),
    interval_ms           bigint NOT NULL CHECK (interval_ms BETWEEN 1000 AND 86400000),
    rpo_objective_ms      bigint NOT NULL CHECK (rpo_objective_ms >= interval_ms),
    keep_count            integer NOT NULL CHECK (keep_count BETWEEN 1 AND 1000),
    keep_age_ms           bigint NOT NULL CHECK (keep_age_ms >= 1000),
    shutdown_grace_ms     bigint NOT NULL CHECK (shutdown_grace_ms BETWEEN 0 AND 86400000),
    power_off_after_grace boolean NOT NULL,
    created               timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE items (
    name         text CONSTRAINT items_pkey PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 63),
    active_host  text NOT NULL REFERENCES hosts (name),
    standby_host text NOT NULL REFERENCES hosts (name),
    -- The machine as its host last told of it: what is planned with while that host is silent.
    machine      jsonb NOT NULL,
    machine_uuid uuid NOT NULL,
    disks        text[] NOT NULL CHECK (cardinality(disks) BETWEEN 1 AND 64),
    policy       text NOT NULL CONSTRAINT items_policy_fkey REFERENCES policies (name),
    state        text NOT NULL CHECK (state IN (
        'initial-replication', 'protected', 'planned-failover', 'unplanned-failover', 'commit-pending', 'not-protected',
        'reverse-replication', 'unprotecting', 'failed')),
    generation   bigint NOT NULL CHECK (generation >= 1),
    created      timestamptz NOT NULL DEFAULT now(),
    CHECK (active_host <> standby_host),
    CONSTRAINT items_machine_key UNIQUE (machine_uuid)
);

-- Outlives its item: a name that is protected again goes on above every generation that an agent may have seen.
CREATE TABLE generations (
    item       text PRIMARY KEY,
    generation bigint NOT NULL CHECK (generation >= 1)
);

-- Generations only grow (invariant 4), whatever the program does.
CREATE FUNCTION generation_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.generation < OLD.generation THEN
        RAISE EXCEPTION 'a generation would fall from % to %', OLD.generation, NEW.generation
            USING ERRCODE = 'check_violation', CONSTRAINT = 'generation_grows';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER items_generation_grows BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION generation_grows();
CREATE TRIGGER generations_grow BEFORE UPDATE ON generations FOR EACH ROW EXECUTE FUNCTION generation_grows();

CREATE TABLE runs (
    id          uuid CONSTRAINT runs_pkey PRIMARY KEY,
    operation   text NOT NULL CHECK (operation IN (
        'protect', 'unprotect', 'test-failover', 'planned-failover', 'unplanned-failover', 'reverse-replicate')),
    state       text NOT NULL CHECK (state IN (
        'running', 'waiting', 'cleaning-up', 'succeeded', 'completed-with-errors', 'failed', 'cancelled')),
    open        boolean NOT NULL,
    -- Plan, steps and items as crate `recovery` writes them.
    run         jsonb NOT NULL,
    -- Rises with every change: the compare-and-set of any number of instances.
    version     bigint NOT NULL CHECK (version >= 1),
    traceparent text,
    created     timestamptz NOT NULL DEFAULT now(),
    ended       timestamptz,
    CHECK (open = (ended IS NULL)),
    CHECK (NOT open OR state NOT IN ('succeeded', 'completed-with-errors', 'cancelled'))
);

CREATE INDEX runs_open ON runs (id) WHERE open;
CREATE INDEX runs_newest ON runs (created DESC, id DESC);

-- Which items a run is about. Stays with the run.
CREATE TABLE run_items (
    run  uuid NOT NULL REFERENCES runs (id),
    item text NOT NULL,
    PRIMARY KEY (run, item)
);

CREATE INDEX run_items_by_item ON run_items (item);

-- Which run has an item in its hands now. One at most (invariant 11).
CREATE TABLE holds (
    item text CONSTRAINT holds_one_run_per_item PRIMARY KEY REFERENCES items (name) ON DELETE CASCADE,
    run  uuid NOT NULL REFERENCES runs (id),
    test boolean NOT NULL
);

CREATE INDEX holds_by_run ON holds (run);

-- Runs that go on when a standby host has its first point of a generation.
CREATE TABLE awaited_points (
    run        uuid NOT NULL REFERENCES runs (id),
    item       text NOT NULL,
    standby    text NOT NULL REFERENCES hosts (name),
    generation bigint NOT NULL,
    PRIMARY KEY (run, item)
);

CREATE INDEX awaited_points_by_standby ON awaited_points (standby);

-- What is to be told to job-tracker: stored with the decision, sent after it, in order for each job, until it is accepted.
CREATE TABLE outbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job          uuid NOT NULL,
    message      jsonb NOT NULL,
    attempts     integer NOT NULL DEFAULT 0,
    -- Not sent before.
    due          timestamptz NOT NULL DEFAULT now(),
    last_error   text,
    created      timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX outbox_order ON outbox (job, id);

-- Mutations that were done, by caller and request id.
CREATE TABLE requests (
    who        text NOT NULL,
    request_id text NOT NULL CHECK (octet_length(request_id) BETWEEN 1 AND 64),
    method     text NOT NULL,
    body_hash  bytea NOT NULL CHECK (octet_length(body_hash) = 32),
    -- What was made or changed.
    subject    text NOT NULL,
    created    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (who, request_id)
);

-- One record per state-changing call (invariant 12). Never changed, never deleted.
CREATE TABLE audit (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    who      text NOT NULL,
    what     text NOT NULL,
    target   text NOT NULL,
    decision text NOT NULL CHECK (decision IN ('allowed', 'refused')),
    result   text NOT NULL
);

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit records are not changed' USING ERRCODE = 'check_violation', CONSTRAINT = 'audit_is_append_only';
END $$;

CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();

-- How far the events of job-tracker have been taken in. Every instance follows them; the number decides who takes one in.
CREATE TABLE event_cursor (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Rises when the events begin anew: job-tracker no longer has them, or was restored from a backup.
    epoch    bigint NOT NULL DEFAULT 0,
    sequence bigint NOT NULL DEFAULT 0,
    token    text
);

INSERT INTO event_cursor DEFAULT VALUES;

-- What network-mapper last answered about an item's NICs, for the day when it is away (R-UF-1).
CREATE TABLE known_connections (
    item        text NOT NULL REFERENCES items (name) ON DELETE CASCADE,
    target_site text NOT NULL,
    nics        jsonb NOT NULL,
    learnt      timestamptz NOT NULL,
    PRIMARY KEY (item, target_site)
);

-- Corrections that were asked for, so that each exists once.
CREATE TABLE corrections (
    key     text PRIMARY KEY,
    host    text NOT NULL,
    job     uuid NOT NULL UNIQUE,
    reason  text NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    ended   timestamptz
);
