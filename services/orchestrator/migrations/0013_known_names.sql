-- What network-mapper said last about names in DNS and traffic hooks, beside the connections (R-NET-12). Answers of before there were any have none.

ALTER TABLE known_connections
    ADD COLUMN records jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN hooks   jsonb NOT NULL DEFAULT '[]';
