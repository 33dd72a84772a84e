-- The next job of a run, in the queue already: outside the index of live jobs, and no attempt until it has started.
CREATE TABLE standbys (
    nonce VARCHAR NOT NULL PRIMARY KEY,
    run VARCHAR NOT NULL REFERENCES runs (name),
    attempt INTEGER NOT NULL,
    after INTEGER NOT NULL,
    submitted_at FLOAT NOT NULL,
    intent VARCHAR NOT NULL,
    answer VARCHAR,
    scheduler_id VARCHAR,
    state VARCHAR NOT NULL,
    raw VARCHAR NOT NULL,
    missing_since FLOAT,
    withdrawn_at FLOAT,
    ended_at FLOAT,
    UNIQUE (run, attempt)
);
CREATE UNIQUE INDEX one_open_standby_of_a_run ON standbys (run) WHERE ended_at IS NULL;
