-- What happened to every run. Times are seconds since 1970, JSON is text, names and numbers are the keys that people use.
CREATE TABLE runs (
    name VARCHAR NOT NULL PRIMARY KEY,
    run_id VARCHAR NOT NULL UNIQUE,
    folder VARCHAR NOT NULL,
    cluster VARCHAR NOT NULL,
    spec VARCHAR NOT NULL,
    epochs INTEGER NOT NULL,
    limits VARCHAR NOT NULL,
    created_at FLOAT NOT NULL,
    state VARCHAR NOT NULL,
    hold_reason VARCHAR,
    cancelled_at FLOAT
);
CREATE INDEX runs_by_state ON runs (state);
CREATE INDEX runs_by_age ON runs (created_at);

CREATE TABLE attempts (
    run VARCHAR NOT NULL REFERENCES runs (name),
    number INTEGER NOT NULL,
    parent VARCHAR,
    settings_digest VARCHAR NOT NULL,
    train VARCHAR NOT NULL,
    patch VARCHAR NOT NULL,
    ranks INTEGER NOT NULL,
    created_at FLOAT NOT NULL,
    "offset" INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    samples_seen INTEGER NOT NULL,
    started INTEGER,
    progress INTEGER,
    checkpoint INTEGER,
    diverged INTEGER,
    final INTEGER,
    PRIMARY KEY (run, number)
);

CREATE TABLE jobs (
    nonce VARCHAR NOT NULL PRIMARY KEY,
    run VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    submitted_at FLOAT NOT NULL,
    answer VARCHAR,
    scheduler_id VARCHAR,
    state VARCHAR NOT NULL,
    raw VARCHAR NOT NULL,
    missing_since FLOAT,
    cancel_requested_at FLOAT,
    ended_at FLOAT,
    exit_code INTEGER,
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number)
);
CREATE INDEX jobs_by_attempt ON jobs (run, attempt);
-- A job may be alive until it is known to have ended: the database itself refuses a second one.
CREATE UNIQUE INDEX one_live_job_of_a_run ON jobs (run) WHERE ended_at IS NULL;

CREATE TABLE checkpoints (
    run VARCHAR NOT NULL,
    path VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    manifest VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    samples_seen INTEGER NOT NULL,
    PRIMARY KEY (run, path),
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number)
);

CREATE TABLE events (
    run VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    line VARCHAR NOT NULL,
    PRIMARY KEY (run, attempt, seq),
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number)
) WITHOUT ROWID;

CREATE TABLE incidents (
    run VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    time FLOAT NOT NULL,
    facts VARCHAR NOT NULL,
    PRIMARY KEY (run, attempt, kind),
    FOREIGN KEY (run, attempt) REFERENCES attempts (run, number)
);

CREATE TABLE decisions (
    id VARCHAR NOT NULL PRIMARY KEY,
    run VARCHAR NOT NULL REFERENCES runs (name),
    attempt INTEGER,
    time FLOAT NOT NULL,
    actor VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    basis VARCHAR NOT NULL,
    facts VARCHAR NOT NULL
);
CREATE INDEX decisions_by_run ON decisions (run, time);
