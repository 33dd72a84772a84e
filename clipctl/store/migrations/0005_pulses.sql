-- For how long an attempt has not moved, by the clocks of who looked: JSON of the last look.
ALTER TABLE attempts ADD COLUMN pulse VARCHAR;

DROP VIEW job_looks;
CREATE VIEW job_looks AS
SELECT
    jobs.*,
    runs.run_id,
    runs.folder,
    attempts."offset",
    attempts.inode,
    attempts.seq,
    attempts.pulse,
    EXISTS (SELECT 1 FROM incidents AS i WHERE i.run = jobs.run AND i.attempt = jobs.attempt) AS troubled,
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
