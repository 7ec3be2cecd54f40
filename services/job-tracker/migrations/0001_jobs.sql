-- Jobs, their tasks, notes and events. Times are the database's, so that several instances share one clock.

CREATE TABLE jobs (
    id               uuid PRIMARY KEY,
    kind             text NOT NULL CHECK (kind <> ''),
    targets          text[] NOT NULL,
    created_by       text NOT NULL CHECK (created_by <> ''),
    -- The identity that may update it.
    owner            text NOT NULL CHECK (owner <> ''),
    labels           jsonb NOT NULL,
    -- Of the request that made it: the same id with another body is refused.
    content_digest   bytea NOT NULL CHECK (length(content_digest) = 32),
    state            text NOT NULL DEFAULT 'queued' CHECK (state IN (
        'queued', 'running', 'waiting', 'succeeded', 'completed_with_errors', 'failed', 'cancelling', 'cancelled')),
    phase            text NOT NULL DEFAULT '',
    waiting_for      text NOT NULL DEFAULT '',
    allowed_actions  text[] NOT NULL DEFAULT '{}',
    problems         jsonb NOT NULL DEFAULT '[]',
    progress_percent integer NOT NULL DEFAULT 0 CHECK (progress_percent BETWEEN 0 AND 100),
    report_json      text,
    revision         bigint NOT NULL DEFAULT 1 CHECK (revision >= 1),
    owner_sequence   bigint NOT NULL DEFAULT 0 CHECK (owner_sequence >= 0),
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    ended_at         timestamptz,
    CONSTRAINT jobs_end CHECK (
        (ended_at IS NOT NULL) = (state IN ('succeeded', 'completed_with_errors', 'failed', 'cancelled'))),
    CONSTRAINT jobs_start CHECK (state = 'queued' OR started_at IS NOT NULL),
    CONSTRAINT jobs_waiting CHECK (state <> 'waiting' OR waiting_for <> '')
);
CREATE INDEX jobs_newest ON jobs (created_at DESC, id DESC);
CREATE INDEX jobs_targets ON jobs USING gin (targets);
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE tasks (
    id               uuid PRIMARY KEY,
    job_id           uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    -- The order in which tasks were added.
    ordinal          bigint GENERATED ALWAYS AS IDENTITY,
    key              text NOT NULL CHECK (key <> ''),
    title            text NOT NULL,
    queue            text NOT NULL CHECK (queue <> ''),
    payload_type     text NOT NULL CHECK (payload_type <> ''),
    payload          bytea NOT NULL CHECK (length(payload) <= 1048576),
    traceparent      text,
    max_attempts     integer NOT NULL CHECK (max_attempts >= 1),
    state            text NOT NULL DEFAULT 'queued' CHECK (state IN (
        'queued', 'leased', 'succeeded', 'failed', 'unknown', 'cancelled')),
    -- Rises with each lease and fences its completion.
    attempt          integer NOT NULL DEFAULT 0,
    due_at           timestamptz NOT NULL DEFAULT now(),
    lease_expires_at timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    worker           text,
    progress_percent integer NOT NULL DEFAULT 0 CHECK (progress_percent BETWEEN 0 AND 100),
    progress_text    text NOT NULL DEFAULT '',
    -- Of the outcome that ended the present attempt: the same completion again is accepted.
    outcome_digest   bytea CHECK (length(outcome_digest) = 32),
    result_type      text,
    result           bytea CHECK (length(result) <= 1048576),
    error            jsonb,
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    ended_at         timestamptz,
    CONSTRAINT tasks_key UNIQUE (job_id, key),
    CONSTRAINT tasks_attempt CHECK (attempt BETWEEN 0 AND max_attempts),
    CONSTRAINT tasks_lease CHECK ((lease_expires_at IS NOT NULL) = (state = 'leased')),
    CONSTRAINT tasks_leased CHECK (state <> 'leased' OR (attempt >= 1 AND worker IS NOT NULL AND started_at IS NOT NULL)),
    CONSTRAINT tasks_end CHECK ((ended_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'unknown', 'cancelled'))),
    CONSTRAINT tasks_result CHECK ((result IS NOT NULL) = (state = 'succeeded') AND (result IS NULL) = (result_type IS NULL)),
    CONSTRAINT tasks_error CHECK (error IS NOT NULL OR state NOT IN ('failed', 'unknown'))
);
CREATE INDEX tasks_due ON tasks (queue, due_at, ordinal) WHERE state = 'queued';
CREATE INDEX tasks_expiry ON tasks (lease_expires_at) WHERE state = 'leased';
CREATE INDEX tasks_of_job ON tasks (job_id, ordinal);

CREATE TABLE notes (
    id         uuid PRIMARY KEY,
    job_id     uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    author     text NOT NULL CHECK (author <> ''),
    text       text NOT NULL CHECK (text <> '' AND octet_length(text) <= 16384),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX notes_of_job ON notes (job_id, created_at, id);

-- One row. Its lock is held from the numbering of a transaction's events to its commit, so that events become visible in the order of
-- their numbers and without gaps: whoever has read number n has seen everything up to n (invariant 15).
CREATE TABLE event_clock (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    last_sequence  bigint NOT NULL DEFAULT 0,
    -- Events up to this one have been deleted.
    purged_through bigint NOT NULL DEFAULT 0,
    CHECK (0 <= purged_through AND purged_through <= last_sequence)
);
INSERT INTO event_clock DEFAULT VALUES;

CREATE TABLE events (
    sequence bigint PRIMARY KEY CHECK (sequence >= 1),
    at       timestamptz NOT NULL,
    job_id   uuid NOT NULL,
    owner    text NOT NULL,
    -- The job, task or note after the change, as an encoded understudy.jobs.v1.Event.
    change   bytea NOT NULL
);
CREATE INDEX events_of_job ON events (job_id, sequence);
CREATE INDEX events_of_owner ON events (owner, sequence);
CREATE INDEX events_at ON events (at);

-- Who asked for which change and what came of it (invariant 12).
CREATE TABLE audit (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),
    caller   text NOT NULL,
    method   text NOT NULL,
    subject  text NOT NULL,
    -- 'done', or the reason of the refusal.
    decision text NOT NULL
);
CREATE INDEX audit_at ON audit (at);
