-- What status, show and completion read: one look a row, with the lines of the events that matter.
CREATE VIEW run_looks AS
SELECT runs.*, (SELECT coalesce(max(number), 0) FROM attempts WHERE attempts.run = runs.name) AS attempts
FROM runs;

CREATE VIEW job_looks AS
SELECT
    jobs.*,
    runs.run_id,
    runs.folder,
    attempts."offset",
    attempts.inode,
    attempts.seq,
    (SELECT line FROM events AS e WHERE e.run = jobs.run AND e.attempt = jobs.attempt AND e.seq = attempts.started)
        AS started_line,
    (SELECT line FROM events AS e WHERE e.run = jobs.run AND e.attempt = jobs.attempt AND e.seq = attempts.progress)
        AS progress_line,
    (SELECT line FROM events AS e WHERE e.run = jobs.run AND e.attempt = jobs.attempt AND e.seq = attempts.checkpoint)
        AS checkpoint_line,
    (SELECT line FROM events AS e WHERE e.run = jobs.run AND e.attempt = jobs.attempt AND e.seq = attempts.diverged)
        AS diverged_line,
    (SELECT line FROM events AS e WHERE e.run = jobs.run AND e.attempt = jobs.attempt AND e.seq = attempts.final)
        AS final_line
FROM jobs
JOIN runs ON runs.name = jobs.run
JOIN attempts ON attempts.run = jobs.run AND attempts.number = jobs.attempt;

CREATE VIEW attempt_looks AS
SELECT
    attempts.*,
    EXISTS (SELECT 1 FROM jobs WHERE jobs.run = attempts.run AND jobs.attempt = attempts.number AND ended_at IS NULL)
        AS live,
    (SELECT facts FROM incidents WHERE incidents.run = attempts.run AND incidents.attempt = attempts.number
        ORDER BY time DESC LIMIT 1) AS incident
FROM attempts;
