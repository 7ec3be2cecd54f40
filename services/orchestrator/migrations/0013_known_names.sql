-- What network-mapper said last about names in DNS, beside the connections (R-NET-12). Answers of before there were names have none.

ALTER TABLE known_connections ADD COLUMN records jsonb NOT NULL DEFAULT '[]';
