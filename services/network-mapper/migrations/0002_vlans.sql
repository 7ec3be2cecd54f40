-- What a VLAN lies on, and which one it is (R-NET-7). Networks of before have neither.

ALTER TABLE vm_network
    ADD COLUMN logical_network text,
    ADD COLUMN vlan_id         integer,
    ADD CHECK (vlan_id IS NULL OR (isolation = 'vlan' AND vlan_id BETWEEN 1 AND 4094));
