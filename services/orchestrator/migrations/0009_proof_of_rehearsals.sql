-- What an item's machine is asked when it has been started (R-TF-8); none: whether its first address answers.
ALTER TABLE items ADD COLUMN probes jsonb NOT NULL DEFAULT '[]'
    CHECK (jsonb_typeof(probes) = 'array' AND jsonb_array_length(probes) <= 16);

-- What the consoles of a run's machines showed after they were asked. Not in the run itself, which is read and written whole.
CREATE TABLE screenshots (
    run   uuid NOT NULL,
    item  text NOT NULL,
    png   bytea NOT NULL CHECK (octet_length(png) BETWEEN 1 AND 524288),
    taken timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run, item),
    FOREIGN KEY (run, item) REFERENCES run_items (run, item) ON DELETE CASCADE
);
