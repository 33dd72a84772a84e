-- Checkpoints that were scored on test sets, each by a job of its own. A line of decisions.jsonl repeats what the job
-- wrote, so that scores are as old as their line and the run's folder gives them back.
CREATE TABLE evaluations (
    nonce VARCHAR NOT NULL PRIMARY KEY,
    run VARCHAR NOT NULL REFERENCES runs (name),
    attempt INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    checkpoint VARCHAR NOT NULL,
    suite VARCHAR NOT NULL,
    datasets VARCHAR NOT NULL,
    submitted_at FLOAT NOT NULL,
    answer VARCHAR,
    scheduler_id VARCHAR,
    raw VARCHAR NOT NULL,
    ended_at FLOAT,
    exit_code INTEGER
);
CREATE INDEX evaluations_by_run ON evaluations (run, epoch);
CREATE TABLE scores (
    nonce VARCHAR NOT NULL REFERENCES evaluations (nonce),
    dataset VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    epoch INTEGER NOT NULL,
    value FLOAT NOT NULL,
    PRIMARY KEY (nonce, dataset, metric)
);
