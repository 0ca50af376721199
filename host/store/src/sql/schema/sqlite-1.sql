-- What Docket keeps, one row a record. Times are milliseconds since 1970-01-01 UTC, so that no time
-- zone can move them; the views below show them as times.
CREATE TABLE docket_record (
    kind          TEXT NOT NULL,        -- result, execution, step or module
    record_key    TEXT NOT NULL,
    revision      INTEGER NOT NULL,     -- the fence: grows with every writing
    status        TEXT NOT NULL,        -- running, done, failed, released, interrupted or cancelled
    tenant        TEXT NOT NULL,
    scope         TEXT,                 -- workflow or global
    step_name     TEXT,
    execution_id  TEXT,
    module_digest TEXT,
    attempts      INTEGER NOT NULL,
    owner         TEXT,
    lease_until   INTEGER,
    expires_at    INTEGER,
    created_at    INTEGER NOT NULL,
    started_at    INTEGER,
    finished_at   INTEGER,
    detail        TEXT,                 -- a JSON object
    body          BLOB NOT NULL,        -- last: what comes before it is read without it
    PRIMARY KEY (kind, record_key)
) STRICT;

CREATE INDEX docket_record_created ON docket_record (kind, created_at DESC, record_key);
CREATE INDEX docket_record_step ON docket_record (step_name, kind, created_at DESC, record_key)
    WHERE step_name IS NOT NULL;
CREATE INDEX docket_record_execution ON docket_record (execution_id, kind, created_at DESC, record_key)
    WHERE execution_id IS NOT NULL;
CREATE INDEX docket_record_expires ON docket_record (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX docket_record_running ON docket_record (kind, created_at DESC, record_key, lease_until)
    WHERE status = 'running';

-- Kept results, and those that are being made.
CREATE VIEW docket_results AS
SELECT record_key AS result_key, tenant, scope, step_name, execution_id, module_digest, status, attempts, owner,
       length(body) AS output_bytes,
       strftime('%Y-%m-%d %H:%M:%f', created_at / 1000.0, 'unixepoch') AS created_at,
       strftime('%Y-%m-%d %H:%M:%f', started_at / 1000.0, 'unixepoch') AS started_at,
       strftime('%Y-%m-%d %H:%M:%f', finished_at / 1000.0, 'unixepoch') AS finished_at,
       strftime('%Y-%m-%d %H:%M:%f', lease_until / 1000.0, 'unixepoch') AS lease_until,
       strftime('%Y-%m-%d %H:%M:%f', expires_at / 1000.0, 'unixepoch') AS expires_at,
       detail
  FROM docket_record WHERE kind = 'result';

-- Executions, running and ended.
CREATE VIEW docket_executions AS
SELECT execution_id, tenant, status, attempts, owner,
       strftime('%Y-%m-%d %H:%M:%f', created_at / 1000.0, 'unixepoch') AS created_at,
       strftime('%Y-%m-%d %H:%M:%f', started_at / 1000.0, 'unixepoch') AS started_at,
       strftime('%Y-%m-%d %H:%M:%f', finished_at / 1000.0, 'unixepoch') AS finished_at,
       strftime('%Y-%m-%d %H:%M:%f', lease_until / 1000.0, 'unixepoch') AS lease_until,
       strftime('%Y-%m-%d %H:%M:%f', expires_at / 1000.0, 'unixepoch') AS expires_at,
       detail
  FROM docket_record WHERE kind = 'execution';

-- What became of each step of each execution.
CREATE VIEW docket_steps AS
SELECT execution_id, step_name, tenant, module_digest, status, attempts,
       strftime('%Y-%m-%d %H:%M:%f', created_at / 1000.0, 'unixepoch') AS created_at,
       strftime('%Y-%m-%d %H:%M:%f', started_at / 1000.0, 'unixepoch') AS started_at,
       strftime('%Y-%m-%d %H:%M:%f', finished_at / 1000.0, 'unixepoch') AS finished_at,
       detail
  FROM docket_record WHERE kind = 'step';

-- What nobody is at any more although it runs, and what has been running for more than ten minutes.
CREATE VIEW docket_stuck AS
SELECT kind, record_key, tenant, execution_id, step_name, module_digest, owner, attempts,
       (now - started_at) / 1000 AS running_seconds,
       coalesce(lease_until <= now, 1) AS lease_expired,
       strftime('%Y-%m-%d %H:%M:%f', started_at / 1000.0, 'unixepoch') AS started_at,
       strftime('%Y-%m-%d %H:%M:%f', lease_until / 1000.0, 'unixepoch') AS lease_until
  FROM docket_record,
       (SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) AS now)
 WHERE status = 'running'
   AND (lease_until IS NULL OR lease_until <= now OR started_at <= now - 600000);
