-- Networks, mappings, and what runs hold. Every rule that two callers could break at once is a constraint here.

CREATE TABLE vm_network (
    site               text        NOT NULL,
    name               text        NOT NULL,
    isolation          text        NOT NULL CHECK (isolation IN ('none', 'vlan', 'virtualized')),
    addressing         text        NOT NULL CHECK (addressing IN ('dhcp', 'static')),
    subnet             text        NOT NULL,
    gateway            text        CHECK (gateway::inet << subnet::cidr),
    pool_first         text        CHECK (pool_first::inet << subnet::cidr),
    pool_last          text        CHECK (pool_last::inet << subnet::cidr),
    hypervisor_network text        NOT NULL,
    isolation_targets  text[]      NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (site, name),
    -- A machine's NIC names its network as the hypervisor does: that must lead to one network.
    UNIQUE (site, hypervisor_network),
    CHECK ((pool_first IS NULL) = (pool_last IS NULL)),
    CHECK (pool_first IS NULL OR pool_first::inet <= pool_last::inet)
);

CREATE TABLE network_mapping (
    id         uuid        PRIMARY KEY,
    site_a     text        NOT NULL,
    network_a  text        NOT NULL,
    site_b     text        NOT NULL,
    network_b  text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (site_a, network_a) REFERENCES vm_network (site, name),
    FOREIGN KEY (site_b, network_b) REFERENCES vm_network (site, name),
    CHECK ((site_a, network_a) <> (site_b, network_b)),
    -- One counterpart per site in the direction in which it was written; the other direction is checked under a lock.
    UNIQUE (site_a, network_a, site_b),
    UNIQUE (site_b, network_b, site_a)
);

-- An address that a run holds (R-NET-10). Gone when the run has released.
CREATE TABLE address_lease (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site       text        NOT NULL,
    network    text        NOT NULL,
    address    text        NOT NULL CHECK (address::inet IS NOT NULL),
    mac        text        NOT NULL,
    item       text        NOT NULL,
    run        uuid        NOT NULL,
    test       boolean     NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (site, network) REFERENCES vm_network (site, name)
);
-- Two runs never hold one address of a network; a test holds its addresses on networks of its own.
CREATE UNIQUE INDEX address_lease_production ON address_lease (site, network, address) WHERE NOT test;
CREATE UNIQUE INDEX address_lease_test ON address_lease (run, site, network, address) WHERE test;
CREATE INDEX address_lease_run ON address_lease (run);

-- Test networks that a run is about to make or has made, on record before anything exists (invariant 6).
CREATE TABLE test_network (
    name       text        PRIMARY KEY,
    run        uuid        NOT NULL,
    site       text        NOT NULL,
    network    text        NOT NULL,
    hosts      text[]      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (site, network) REFERENCES vm_network (site, name)
);
CREATE INDEX test_network_run ON test_network (run);

-- Runs that have released. A worker that was thought dead and comes back late must not reserve for them again.
CREATE TABLE released_run (
    run         uuid        PRIMARY KEY,
    released_at timestamptz NOT NULL DEFAULT now()
);

-- Answers to mutations by request id: the same request again gets the same answer.
CREATE TABLE api_request (
    id         uuid        PRIMARY KEY,
    who        text        NOT NULL,
    method     text        NOT NULL,
    body       jsonb       NOT NULL,
    answer     jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One record per state-changing call (invariant 12).
CREATE TABLE audit (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),
    who      text        NOT NULL,
    method   text        NOT NULL,
    target   text        NOT NULL,
    decision text        NOT NULL CHECK (decision IN ('allowed', 'refused')),
    result   text        NOT NULL
);
