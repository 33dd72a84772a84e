-- A job that policy ended. Whatever the scheduler makes of that, nobody cancelled it.
ALTER TABLE jobs ADD COLUMN stop_requested_at FLOAT;
