-- Recovery plans (R-RP). Items are named in the document: a plan may name one that is no longer protected, which is told with it.
CREATE TABLE recovery_plans (
    name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
    plan jsonb NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    updated timestamptz NOT NULL DEFAULT now()
);
