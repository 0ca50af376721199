//! The verbs about what is kept, as they are typed: executions, results, stores. Never acts on them.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use docket_runtime::ExecutionId;
use docket_store::Status;
use serde::Serialize;

use super::{EndingArgs, ItemsFormat, ViewFormat, duration};

/// How many entries a listing shows when nothing is said: a screen or two.
const LISTED: usize = 50;

/// Which store to use.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreArg {
    /// Where results and executions are kept: sled:PATH, sqlite:PATH, memory:, postgres://…, mysql://…
    /// or redis://… [default: what docket.toml says, else sled in `docket` of the user's state directory]
    #[arg(long = "store", global = true, value_name = "URL", env = "DOCKET_STORE", hide_env_values = true)]
    pub(crate) url: Option<String>,
}

/// `explain`
#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The execution
    #[arg(value_name = "ID", value_parser = ExecutionId::parse)]
    pub(crate) id: ExecutionId,
    /// How the answer is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
    #[command(flatten)]
    pub(crate) store: StoreArg,
}

/// `resume`
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// The execution; it needs neither --module-dir nor --config, because both were kept
    #[arg(value_name = "ID", value_parser = ExecutionId::parse, required_unless_present = "all")]
    pub(crate) id: Option<ExecutionId>,
    /// Every execution that was interrupted or whose process is gone; writes one JSON line for each
    #[arg(long, conflicts_with_all = ["id", "format"])]
    pub(crate) all: bool,
    /// How the items of a batch are written [default: by the name of their file]
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "all")]
    pub(crate) items_format: Option<ItemsFormat>,
    #[command(flatten)]
    pub(crate) ending: EndingArgs,
    #[command(flatten)]
    pub(crate) store: StoreArg,
}

/// `executions`
#[derive(Debug, clap::Args)]
pub(crate) struct ExecutionsArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    #[command(subcommand)]
    pub(crate) verb: ExecutionsVerb,
}

/// What to do with executions.
#[derive(Debug, Subcommand)]
pub(crate) enum ExecutionsVerb {
    /// List executions, the newest first
    Ls(ExecutionsLsArgs),
    /// Show what was asked, what became of each step, and how it ended
    Show(ExecutionArgs),
    /// Stop an execution, wherever it is carried out
    Cancel(ExecutionArgs),
    /// Remove an execution and the results that were its own
    Rm(ExecutionArgs),
}

/// `executions ls`
#[derive(Debug, clap::Args)]
pub(crate) struct ExecutionsLsArgs {
    /// Only those that stand so; may be given several times
    #[arg(long, value_enum, value_name = "STATUS")]
    pub(crate) status: Vec<ExecutionStatus>,
    /// Only those that had to do with a kept result of this step
    #[arg(long, value_name = "NAME")]
    pub(crate) step: Option<String>,
    /// Only those that began within this time, such as 1h or 7d
    #[arg(long, value_name = "AGE", value_parser = duration)]
    pub(crate) since: Option<Duration>,
    /// The most to list
    #[arg(long, value_name = "N", default_value_t = LISTED, value_parser = limit)]
    pub(crate) limit: usize,
    /// How the list is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
}

/// Where an execution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ExecutionStatus {
    /// A process carries it out
    Running,
    /// It has a result
    Done,
    /// A step failed or aborted it; it can be resumed
    Failed,
    /// It was stopped, or its process is gone; it can be resumed
    Interrupted,
    /// Somebody asked for it to be stopped
    Cancelled,
}

impl ExecutionStatus {
    /// Returns every status that such a record may have for the store, which does not know whether
    /// somebody is at it.
    pub(crate) fn stored(self) -> &'static [Status] {
        match self {
            ExecutionStatus::Running => &[Status::Running],
            ExecutionStatus::Done => &[Status::Done],
            ExecutionStatus::Failed => &[Status::Failed],
            ExecutionStatus::Interrupted => &[Status::Interrupted, Status::Running],
            ExecutionStatus::Cancelled => &[Status::Cancelled],
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ExecutionStatus::Running => "running",
            ExecutionStatus::Done => "done",
            ExecutionStatus::Failed => "failed",
            ExecutionStatus::Interrupted => "interrupted",
            ExecutionStatus::Cancelled => "cancelled",
        }
    }
}

/// One execution.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecutionArgs {
    /// The execution
    #[arg(value_name = "ID", value_parser = ExecutionId::parse)]
    pub(crate) id: ExecutionId,
    /// How the answer is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
}

/// `cache`
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    #[command(subcommand)]
    pub(crate) verb: CacheVerb,
}

/// What to do with kept results.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheVerb {
    /// List results, and claims on results that are being made, the newest first
    Ls(CacheLsArgs),
    /// Show one result, and what its key is made of
    Show(CacheShowArgs),
    /// Remove results; those that are being made stay
    Rm(CacheRmArgs),
    /// Remove what has expired and nobody needs any more
    Purge(FormatArgs),
    /// Count results and their bytes, by step and status
    Stats(FormatArgs),
}

/// `cache ls`
#[derive(Debug, clap::Args)]
pub(crate) struct CacheLsArgs {
    #[command(flatten)]
    pub(crate) filter: CacheFilter,
    /// Only those that stand so
    #[arg(long, value_enum, value_name = "STATUS")]
    pub(crate) status: Option<ResultStatus>,
    /// The most to list
    #[arg(long, value_name = "N", default_value_t = LISTED, value_parser = limit)]
    pub(crate) limit: usize,
    /// How the list is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
}

/// Which results.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CacheFilter {
    /// Only results of this step
    #[arg(long, value_name = "NAME")]
    pub(crate) step: Option<String>,
    /// Only results that this execution has made or is making
    #[arg(long, value_name = "ID", value_parser = ExecutionId::parse)]
    pub(crate) execution: Option<ExecutionId>,
    /// Only what was made longer ago than this, such as 1h or 7d
    #[arg(long, value_name = "AGE", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
}

/// Where a result stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ResultStatus {
    /// It is there
    Done,
    /// It was there, and its time is over
    Expired,
    /// It is being made
    Running,
    /// It was being made by a process that is gone
    Lapsed,
    /// Its step failed
    Failed,
    /// Whoever was making it has given it back
    Released,
}

impl ResultStatus {
    /// Returns the status that a record has for the store, which does not know what time has done to it.
    pub(crate) fn stored(self) -> Status {
        match self {
            ResultStatus::Done | ResultStatus::Expired => Status::Done,
            ResultStatus::Running | ResultStatus::Lapsed => Status::Running,
            ResultStatus::Failed => Status::Failed,
            ResultStatus::Released => Status::Released,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ResultStatus::Done => "done",
            ResultStatus::Expired => "expired",
            ResultStatus::Running => "running",
            ResultStatus::Lapsed => "lapsed",
            ResultStatus::Failed => "failed",
            ResultStatus::Released => "released",
        }
    }
}

/// `cache show`
#[derive(Debug, clap::Args)]
pub(crate) struct CacheShowArgs {
    /// The key, or as much of its beginning as is unique
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// How the answer is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
}

/// `cache rm`
#[derive(Debug, clap::Args)]
pub(crate) struct CacheRmArgs {
    /// The key, or as much of its beginning as is unique
    #[arg(value_name = "KEY", conflicts_with_all = ["step", "execution", "older_than"])]
    #[arg(required_unless_present_any = ["step", "execution", "older_than"])]
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) filter: CacheFilter,
    /// How the answer is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
}

/// Only how the answer is written.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FormatArgs {
    /// How the answer is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
}

/// `store`
#[derive(Debug, clap::Args)]
pub(crate) struct StoreVerbArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    #[command(subcommand)]
    pub(crate) verb: StoreVerb,
}

/// What to do with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Copy everything from one store into another, which must be empty or hold the same
    Migrate(MigrateArgs),
    /// Write everything to stdout, one JSON line a record
    Export,
    /// Read what `store export` wrote from stdin
    Import(FormatArgs),
    /// Read everything, and report every record that is damaged
    Check(FormatArgs),
}

/// `store migrate`
#[derive(Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    /// The URL of the store to read
    pub(crate) from: String,
    /// The URL of the store to write
    pub(crate) to: String,
    /// How the answer is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ViewFormat::Text)]
    pub(crate) format: ViewFormat,
}

fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be more than zero".to_owned()),
        Ok(limit) => Ok(limit),
        Err(_) => Err("it must be a whole number".to_owned()),
    }
}
