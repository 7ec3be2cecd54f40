-- Whether machines keep their addresses (R-NET-4). Mappings of before keep them where that is possible, as they did.

ALTER TABLE network_mapping
    ADD COLUMN addresses text NOT NULL DEFAULT 'keep-if-possible' CHECK (addresses IN ('keep-if-possible', 'retain', 'change'));
