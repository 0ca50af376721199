//! Owns the store of one call: which one it is, its opening when it is first needed, what is said of
//! that, and its closing. Never decides what is kept.

mod standing;

use std::sync::Arc;

use docket_runtime::ExecutionId;
use docket_store::{
    Filter, Journal, Kind, LEASE, Query, Status, Store, StoreError, StoreErrorKind, StoreUrl,
};
use etcetera::BaseStrategy as _;
use tokio::sync::OnceCell;

use crate::args::StoreArg;
use crate::config::Config;
use crate::error::CliError;
use crate::exit::Exit;
use crate::log::HOST;
use standing::Standing;

/// Whose executions and results the command line is about.
pub(crate) const TENANT: &str = "default";

/// Who the command line is where it writes into the journal itself, which it does only to cancel.
const OWNER: &str = "docket-host";

/// The most abandoned executions that are counted at the start of a run: whoever has more knows.
const COUNTED: usize = 1000;

/// The way to the store of one call. Clones lead to the same one.
#[derive(Clone)]
pub(crate) struct Door(Arc<Inner>);

struct Inner {
    url: StoreUrl,
    is_default: bool,
    notice: Notice,
    opened: OnceCell<Arc<Standing>>,
}

/// What is said when the store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// What is unusual about it.
    Unusual,
    /// Also how many executions wait to be resumed, but for this one.
    Abandoned(Option<ExecutionId>),
}

impl Door {
    /// Returns the way to the store that the command line names, else the configuration, else to the
    /// one of this user. Nothing is opened.
    ///
    /// # Errors
    /// Where no store is named that way, or this user has no directory for one.
    pub(crate) fn of(arg: &StoreArg, config: &Config, notice: Notice) -> Result<Self, CliError> {
        let (url, is_default) = match (&arg.url, &config.store.url) {
            (Some(url), _) => (parse(url)?, false),
            (None, Some(url)) => (url.clone(), false),
            (None, None) => (of_this_user()?, true),
        };
        Ok(Self::to(url, is_default, notice))
    }

    /// The same, for who only looks at what is there, or goes on with it.
    ///
    /// # Errors
    /// Also where the command line names a place in which there is nothing: nothing is made there.
    pub(crate) fn of_existing(arg: &StoreArg, config: &Config) -> Result<Self, CliError> {
        let this = Self::of(arg, config, Notice::Unusual)?;
        if arg.url.is_some() {
            this.check_existing()?;
        }
        Ok(this)
    }

    /// Returns the way to the store of this address, named on the command line.
    ///
    /// # Errors
    /// Where it is none, or there is nothing in its place.
    pub(crate) fn to_existing(url: &str) -> Result<Self, CliError> {
        let this = Self::to(parse(url)?, false, Notice::Unusual);
        this.check_existing()?;
        Ok(this)
    }

    /// Returns the way to the store of this address, which may be new.
    ///
    /// # Errors
    /// Where it is none.
    pub(crate) fn to_any(url: &str) -> Result<Self, CliError> {
        Ok(Self::to(parse(url)?, false, Notice::Unusual))
    }

    fn to(url: StoreUrl, is_default: bool, notice: Notice) -> Self {
        Self(Arc::new(Inner { url, is_default, notice, opened: OnceCell::new() }))
    }

    /// Checks that there is something in the store's place, where that is a path: a whole store is not
    /// read from a place that was misspelt.
    ///
    /// # Errors
    /// Where there is nothing.
    pub(crate) fn check_existing(&self) -> Result<(), CliError> {
        match &self.0.url {
            StoreUrl::Sled(path) | StoreUrl::Sqlite(path) if matches!(path.try_exists(), Ok(false)) => {
                Err(CliError::new(Exit::Usage, format_args!("there is no store `{}`", self.0.url)))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether what is kept there is still there for the next call.
    pub(crate) fn outlives_the_call(&self) -> bool {
        self.0.url != StoreUrl::Memory
    }

    /// Returns whether both ways lead to one store, as far as their addresses tell.
    pub(crate) fn leads_where(&self, other: &Self) -> bool {
        let place = |url: &StoreUrl| match url {
            StoreUrl::Sled(path) | StoreUrl::Sqlite(path) => path.canonicalize().ok(),
            _ => None,
        };
        let (one, two) = (&self.0.url, &other.0.url);
        one == two || place(one).is_some_and(|one| Some(one) == place(two))
    }

    /// Returns the store, which is opened now if it was not before.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub(crate) async fn store(&self) -> Result<Arc<dyn Store>, StoreError> {
        let Inner { url, notice, opened, .. } = &*self.0;
        let open = async || {
            let store = Arc::new(Standing::open(url).await?);
            if let Notice::Abandoned(but) = notice {
                self.mention_abandoned(&store, but.as_ref()).await?;
            }
            Ok(store)
        };
        Ok(opened.get_or_try_init(open).await?.clone())
    }

    /// Closes the store, if it was opened. What was acknowledged is safe before.
    pub(crate) async fn close(&self) {
        let Some(store) = self.0.opened.get() else { return };
        match store.close().await {
            Ok(()) => {}
            // Whoever had it has ended first, and nothing is left to be closed.
            Err(error) if error.kind() == StoreErrorKind::Unavailable => {
                tracing::debug!(target: HOST, "the store `{}` was closed by another: {error}", self.0.url);
            }
            Err(error) => {
                tracing::warn!(target: HOST, "the store `{}` could not be closed: {error}", self.0.url);
            }
        }
    }

    /// Returns whether an execution is recorded there, or that cannot be found out.
    pub(crate) async fn may_have(&self, id: &ExecutionId) -> bool {
        let Ok(store) = self.store().await else { return true };
        !matches!(journal(store).read(TENANT, id.as_str()).await, Ok(None))
    }

    /// Returns the option that leads another call to this store: with a space before it, or empty where
    /// it needs none.
    pub(crate) fn option(&self) -> String {
        if self.0.is_default {
            String::new()
        } else {
            format!(" --store {}", quoted(&self.0.url.to_string()))
        }
    }

    async fn mention_abandoned(
        &self,
        store: &Arc<Standing>,
        but: Option<&ExecutionId>,
    ) -> Result<(), StoreError> {
        let journal = journal(Arc::clone(store) as Arc<dyn Store>);
        let mut count = 0;
        for status in [Status::Interrupted, Status::Running] {
            let filter = Filter { tenant: Some(TENANT.into()), status: Some(status), ..Filter::default() };
            let page =
                store.scan(&Query::Newest { kind: Kind::Execution, filter, after: None }, COUNTED).await?;
            let others = page.records.iter().filter(|record| {
                record.facts.execution.as_deref() != but.map(ExecutionId::as_str)
                    && !journal.is_held(record, page.now)
            });
            count += others.count();
        }
        let command = format!("docket-host executions ls --status interrupted{}", self.option());
        match count {
            0 => {}
            1 => tracing::info!(target: HOST, "1 execution was interrupted and can be resumed: `{command}`"),
            _ => {
                let more = if count >= COUNTED { "at least " } else { "" };
                tracing::info!(target: HOST, "{more}{count} executions were interrupted and can be resumed: `{command}`");
            }
        }
        Ok(())
    }
}

/// Returns the journal as the command line reads it.
pub(crate) fn journal(store: Arc<dyn Store>) -> Journal {
    Journal::new(store, OWNER.into(), LEASE)
}

/// Returns how it is said that a store cannot be used.
pub(crate) fn unusable(error: &StoreError) -> CliError {
    CliError::new(Exit::Configuration, error)
}

fn parse(url: &str) -> Result<StoreUrl, CliError> {
    StoreUrl::parse(url).map_err(|error| CliError::new(Exit::Usage, error))
}

fn of_this_user() -> Result<StoreUrl, CliError> {
    let missing = |_| {
        CliError::new(
            Exit::Configuration,
            "there is no home directory to keep results in; name a store with `--store`",
        )
    };
    let strategy = etcetera::choose_base_strategy().map_err(missing)?;
    // Not every system tells state from data.
    let dir = strategy.state_dir().unwrap_or_else(|| strategy.data_dir());
    Ok(StoreUrl::Sled(dir.join("docket")))
}

/// Returns a word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+=".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_the_command_line_then_the_configuration() {
        let configured = Config {
            store: crate::config::StoreConfig {
                url: Some(StoreUrl::Sled("a b".into())),
                ..Default::default()
            },
            ..Config::default()
        };
        let option = |arg: Option<&str>| {
            let arg = StoreArg { url: arg.map(str::to_owned) };
            Door::of(&arg, &configured, Notice::Unusual).map(|door| door.option())
        };
        assert_eq!(option(Some("sqlite:x.db")).unwrap(), " --store sqlite:x.db");
        assert_eq!(option(None).unwrap(), " --store 'sled:a b'");
        assert_eq!(option(Some("slde:x")).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn a_password_is_not_repeated_in_a_command() {
        let door = Door::to_any("postgres://u:secret@h/d").unwrap();
        assert_eq!(door.option(), " --store 'postgres://u:***@h/d'");
    }
}
