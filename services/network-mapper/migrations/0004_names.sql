-- Names of machines in DNS: where they are kept, whose they are, and what runs have made of them (R-NET-11, R-NET-12).

CREATE TABLE dns_zone (
    -- Absolute, in lower case, with its final dot.
    name        text        PRIMARY KEY CHECK (name LIKE '%.'),
    -- As the configuration calls it, which has its address and key.
    server      text        NOT NULL,
    ttl_seconds integer     NOT NULL CHECK (ttl_seconds BETWEEN 0 AND 86400),
    purpose     text        NOT NULL CHECK (purpose IN ('production', 'test')),
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE host_record (
    name       text        PRIMARY KEY CHECK (name LIKE '%.'),
    zone       text        NOT NULL REFERENCES dns_zone (name),
    item       text        NOT NULL,
    nic        integer     NOT NULL CHECK (nic BETWEEN 0 AND 63),
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (name = zone OR name LIKE '%.' || zone)
);
CREATE INDEX host_record_item ON host_record (item);

-- What a name had before a run set it, on record before the server is told anything. Gone when the run has released.
CREATE TABLE record_change (
    run            uuid        NOT NULL,
    name           text        NOT NULL,
    zone           text        NOT NULL REFERENCES dns_zone (name),
    item           text        NOT NULL,
    -- Without an address: there was no record.
    before         text[]      NOT NULL,
    before_seconds integer     NOT NULL CHECK (before_seconds >= 0),
    wanted         text        NOT NULL CHECK (wanted::inet IS NOT NULL),
    -- 'recorded' until the server has been seen to have what is wanted.
    state          text        NOT NULL CHECK (state IN ('recorded', 'set')),
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run, name)
);

-- Items whose names a run has begun to restore. A worker that was thought dead and comes back late must not set them again.
CREATE TABLE restored_item (
    run         uuid        NOT NULL,
    item        text        NOT NULL,
    restored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run, item)
);
