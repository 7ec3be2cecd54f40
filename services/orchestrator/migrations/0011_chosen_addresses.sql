-- Addresses that somebody has chosen for the NICs of an item's machine (R-NET-5); none: as its network mapping says.
ALTER TABLE items ADD COLUMN addresses jsonb NOT NULL DEFAULT '[]'
    CHECK (jsonb_typeof(addresses) = 'array' AND jsonb_array_length(addresses) <= 256);
