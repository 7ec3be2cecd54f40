-- What an item's machine is asked when it has been started (R-TF-8); none: whether its first address answers.
ALTER TABLE items ADD COLUMN probes jsonb NOT NULL DEFAULT '[]'
    CHECK (jsonb_typeof(probes) = 'array' AND jsonb_array_length(probes) <= 16);
