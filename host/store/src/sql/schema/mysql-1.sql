-- What Docket keeps, one row a record. Times are milliseconds since 1970-01-01 UTC, so that no time
-- zone can move them; the views below show them as times, in UTC. Nothing here needs a transaction:
-- each statement may be repeated where an earlier one was cut off.
CREATE TABLE IF NOT EXISTS docket_record (
    kind          VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,  -- result, execution, step or module
    record_key    VARCHAR(512) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    revision      BIGINT NOT NULL,      -- the fence: grows with every writing
    status        VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
                                        -- running, done, failed, released, interrupted or cancelled
    tenant        VARCHAR(512) NOT NULL,
    scope         VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin,  -- workflow or global
    step_name     VARCHAR(512),
    execution_id  VARCHAR(512),
    module_digest VARCHAR(512),
    attempts      BIGINT NOT NULL,
    owner         VARCHAR(512),
    lease_until   BIGINT,
    expires_at    BIGINT,
    created_at    BIGINT NOT NULL,
    started_at    BIGINT,
    finished_at   BIGINT,
    detail        LONGTEXT,             -- a JSON object, as text, because MySQL's JSON would be rewritten
    body          LONGBLOB NOT NULL,
    PRIMARY KEY (kind, record_key),
    KEY docket_record_created (kind, created_at DESC, record_key),
    KEY docket_record_step (step_name, kind, created_at DESC, record_key),
    KEY docket_record_execution (execution_id, kind, created_at DESC, record_key),
    KEY docket_record_expires (expires_at),
    KEY docket_record_running (status, kind, created_at DESC, record_key, lease_until)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Kept results, and those that are being made.
CREATE OR REPLACE VIEW docket_results AS
SELECT record_key AS result_key, tenant, scope, step_name, execution_id, module_digest, status, attempts, owner,
       octet_length(body) AS output_bytes,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL created_at * 1000 MICROSECOND AS created_at,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL started_at * 1000 MICROSECOND AS started_at,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL finished_at * 1000 MICROSECOND AS finished_at,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL lease_until * 1000 MICROSECOND AS lease_until,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL expires_at * 1000 MICROSECOND AS expires_at,
       detail
  FROM docket_record WHERE kind = 'result';

-- Executions, running and ended.
CREATE OR REPLACE VIEW docket_executions AS
SELECT execution_id, tenant, status, attempts, owner,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL created_at * 1000 MICROSECOND AS created_at,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL started_at * 1000 MICROSECOND AS started_at,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL finished_at * 1000 MICROSECOND AS finished_at,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL lease_until * 1000 MICROSECOND AS lease_until,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL expires_at * 1000 MICROSECOND AS expires_at,
       detail
  FROM docket_record WHERE kind = 'execution';

-- What became of each step of each execution.
CREATE OR REPLACE VIEW docket_steps AS
SELECT execution_id, step_name, tenant, module_digest, status, attempts,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL created_at * 1000 MICROSECOND AS created_at,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL started_at * 1000 MICROSECOND AS started_at,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL finished_at * 1000 MICROSECOND AS finished_at,
       detail
  FROM docket_record WHERE kind = 'step';

-- What nobody is at any more although it runs, and what has been running for more than ten minutes.
CREATE OR REPLACE VIEW docket_stuck AS
SELECT kind, record_key, tenant, execution_id, step_name, module_digest, owner, attempts,
       (clock.now_millis - started_at) DIV 1000 AS running_seconds,
       coalesce(lease_until <= clock.now_millis, 1) AS lease_expired,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL started_at * 1000 MICROSECOND AS started_at,
       TIMESTAMP'1970-01-01 00:00:00' + INTERVAL lease_until * 1000 MICROSECOND AS lease_until
  FROM docket_record,
       (SELECT TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000 AS now_millis) AS clock
 WHERE status = 'running'
   AND (lease_until IS NULL OR lease_until <= clock.now_millis
        OR started_at <= clock.now_millis - 600000);
