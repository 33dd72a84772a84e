-- Whom to ask about a run's jobs, known without reading the cluster's profile. Runs before this were local ones.
ALTER TABLE runs ADD COLUMN scheduler VARCHAR NOT NULL DEFAULT 'local';
