-- What Docket keeps, one row a record. Times are milliseconds since 1970-01-01 UTC, so that no time
-- zone can move them; the views below show them as times.
CREATE TABLE docket_record (
    kind          TEXT NOT NULL,        -- result, execution, step or module
    record_key    TEXT COLLATE "C" NOT NULL,
    revision      BIGINT NOT NULL,      -- the fence: grows with every writing
    status        TEXT NOT NULL,        -- running, done, failed, released, interrupted or cancelled
    tenant        TEXT NOT NULL,
    scope         TEXT,                 -- workflow or global
    step_name     TEXT,
    execution_id  TEXT,
    module_digest TEXT,
    attempts      BIGINT NOT NULL,
    owner         TEXT,
    lease_until   BIGINT,
    expires_at    BIGINT,
    created_at    BIGINT NOT NULL,
    started_at    BIGINT,
    finished_at   BIGINT,
    detail        TEXT,                 -- a JSON object
    body          BYTEA NOT NULL,        -- last: what comes before it is read without it
    PRIMARY KEY (kind, record_key)
);

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
       octet_length(body) AS output_bytes,
       to_timestamp(created_at / 1000.0) AS created_at,
       to_timestamp(started_at / 1000.0) AS started_at,
       to_timestamp(finished_at / 1000.0) AS finished_at,
       to_timestamp(lease_until / 1000.0) AS lease_until,
       to_timestamp(expires_at / 1000.0) AS expires_at,
       detail
  FROM docket_record WHERE kind = 'result';

-- Executions, running and ended.
CREATE VIEW docket_executions AS
SELECT execution_id, tenant, status, attempts, owner,
       to_timestamp(created_at / 1000.0) AS created_at,
       to_timestamp(started_at / 1000.0) AS started_at,
       to_timestamp(finished_at / 1000.0) AS finished_at,
       to_timestamp(lease_until / 1000.0) AS lease_until,
       to_timestamp(expires_at / 1000.0) AS expires_at,
       detail
  FROM docket_record WHERE kind = 'execution';

-- What became of each step of each execution.
CREATE VIEW docket_steps AS
SELECT execution_id, step_name, tenant, module_digest, status, attempts,
       to_timestamp(created_at / 1000.0) AS created_at,
       to_timestamp(started_at / 1000.0) AS started_at,
       to_timestamp(finished_at / 1000.0) AS finished_at,
       detail
  FROM docket_record WHERE kind = 'step';

-- What nobody is at any more although it runs, and what has been running for more than ten minutes.
CREATE VIEW docket_stuck AS
SELECT kind, record_key, tenant, execution_id, step_name, module_digest, owner, attempts,
       (now - started_at) / 1000 AS running_seconds,
       coalesce(lease_until <= now, true) AS lease_expired,
       to_timestamp(started_at / 1000.0) AS started_at,
       to_timestamp(lease_until / 1000.0) AS lease_until
  FROM docket_record,
       (SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT) AS now) AS clock
 WHERE status = 'running'
   AND (lease_until IS NULL OR lease_until <= now OR started_at <= now - 600000);
