//! Owns what a caller asks of a host, and why it may be refused before anything runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use docket_graph::{DefaultError, PlanErrors, Port, PortError};
use docket_store::StoreError;
use prost::Name;

use crate::execution_id::ExecutionId;
use crate::failure::{AnswerFault, ErrorKind};
use crate::generation::LoadErrors;
use crate::items::ItemSource;
use crate::stored::StoredError;
use crate::value::Value;

/// A wish for one output. Built up by its methods; a fault in it is reported when it is executed.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) target: Result<Port, PortError>,
    /// Where the inputs go, in the order in which they were given; or the first fault in that.
    pub(crate) ports: Result<Vec<Port>, PortError>,
    /// What is given for each of the ports.
    pub(crate) given: Vec<Arc<Value>>,
    pub(crate) execution_id: Option<ExecutionId>,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) timeout: Option<Duration>,
}

impl Request {
    /// Returns a request for what flows through this port.
    pub fn new(target: Port) -> Self {
        Self::asking(Ok(target))
    }

    /// Returns a request for a message of this type, without a label.
    pub fn for_message<M: Name>() -> Self {
        Self::asking(port_of::<M>(None))
    }

    /// Returns a request for a message of this type with this label.
    pub fn for_labeled<M: Name>(label: &str) -> Self {
        Self::asking(port_of::<M>(Some(label)))
    }

    fn asking(target: Result<Port, PortError>) -> Self {
        let (given, execution_id, started_at, timeout) = Default::default();
        Self { target, ports: Ok(Vec::new()), given, execution_id, started_at, timeout }
    }

    /// Gives a message for the port of its type.
    #[must_use]
    pub fn input<M: Name>(self, message: &M) -> Self {
        self.given(port_of::<M>(None), Value::one(message.encode_to_vec()))
    }

    /// Gives a message for the port of its type with this label.
    #[must_use]
    pub fn labeled_input<M: Name>(self, label: &str, message: &M) -> Self {
        self.given(port_of::<M>(Some(label)), Value::one(message.encode_to_vec()))
    }

    /// Gives a list of messages for the port of their type.
    #[must_use]
    pub fn inputs<'a, M: Name + 'a>(self, messages: impl IntoIterator<Item = &'a M>) -> Self {
        let messages = messages.into_iter().map(M::encode_to_vec);
        self.given(port_of::<M>(None), Value::many(messages))
    }

    /// Gives encoded messages for a port.
    #[must_use]
    pub fn value(self, port: Port, value: Value) -> Self {
        self.given(Ok(port), value)
    }

    fn given(mut self, port: Result<Port, PortError>, value: Value) -> Self {
        match (&mut self.ports, port) {
            (Ok(ports), Ok(port)) => ports.push(port),
            (Ok(_), Err(fault)) => self.ports = Err(fault),
            (Err(_), _) => {}
        }
        self.given.push(Arc::new(value));
        self
    }

    /// Names the execution; without this it gets a new id.
    #[must_use]
    pub fn execution_id(mut self, id: ExecutionId) -> Self {
        self.execution_id = Some(id);
        self
    }

    /// Sets when the execution is said to have started; without this, now. Steps see no other
    /// clock, so an execution with the same id, start and inputs can be repeated exactly.
    #[must_use]
    pub fn started_at(mut self, time: SystemTime) -> Self {
        self.started_at = Some(time);
        self
    }

    /// Sets the deadline of the whole execution, from its acceptance; without this it has none.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

fn port_of<M: Name>(label: Option<&str>) -> Result<Port, PortError> {
    Port::new(&M::full_name(), label)
}

/// Why a request is refused before anything runs.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A port of the request is none.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The request does not fit the graph.
    #[error(transparent)]
    Plan(#[from] PlanErrors),
    /// What the items of a batch are has to be said.
    #[error(transparent)]
    Items(#[from] DefaultError),
    /// A given message is not what its port says.
    #[error("the input for `{port}` is wrong: {fault}")]
    Input {
        /// The port.
        port: Port,
        /// What is wrong with the bytes.
        fault: AnswerFault,
    },
    /// A list is given where steps take one message.
    #[error("the input for `{port}` is a list, but step `{step}` takes one message; give one")]
    List {
        /// The port.
        port: Port,
        /// The step.
        step: docket_graph::StepName,
    },
    /// A step keeps its results, and the host has nowhere to keep them.
    #[error("{}the host has no store; give it one, or set `persistence = false`", .step.as_ref().map(|step| format!("step `{step}` keeps its results, but ")).unwrap_or_default())]
    NoStore {
        /// The first such step.
        step: Option<docket_graph::StepName>,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the store has of the execution cannot be understood.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// Another request was made under this id.
    #[error("the execution id `{id}` belongs to another request; choose another id")]
    Conflict {
        /// The id.
        id: ExecutionId,
    },
    /// A batch with this id was begun with other items.
    #[error(
        "batch `{id}` was begun with other items, which differ within the first {read}; give the same, or choose another id"
    )]
    OtherItems {
        /// The id.
        id: ExecutionId,
        /// How many items are known to have been read.
        read: u64,
    },
    /// What is to be resumed is a batch, whose items are not in the journal.
    #[error(
        "`{id}` is a batch; to go on with it, run it again with this id and the same items{}",
        file_of(items)
    )]
    Batch {
        /// The id.
        id: ExecutionId,
        /// Where its items came from.
        items: ItemSource,
    },
    /// No execution of this id is recorded.
    #[error("no execution `{id}` is recorded; only executions that keep results are")]
    UnknownExecution {
        /// The id.
        id: ExecutionId,
    },
    /// A module that the execution began with is gone.
    #[error("execution `{id}` cannot be resumed: its module `{module}` ({digest}) is no longer in the store")]
    NoModule {
        /// The execution.
        id: ExecutionId,
        /// The name that the module had.
        module: String,
        /// Its digest.
        digest: String,
    },
    /// The modules that the execution began with cannot be loaded here.
    #[error(transparent)]
    Load(Arc<LoadErrors>),
    /// The host itself failed while it carried the request out; a fault of ours, or of an embedder's store.
    #[error("internal error of the host: {0}")]
    Internal(String),
    /// The host is shutting down.
    #[error("the host is shutting down and takes no more executions")]
    Closed,
}

fn file_of(source: &ItemSource) -> String {
    match source {
        ItemSource::File(path) => format!(", from `{path}`"),
        ItemSource::Stream => String::new(),
    }
}

impl RequestError {
    /// Returns who must act.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RequestError::Port(_)
            | RequestError::Plan(_)
            | RequestError::Items(_)
            | RequestError::Batch { .. }
            | RequestError::Input { .. }
            | RequestError::List { .. } => ErrorKind::Invalid,
            RequestError::Conflict { .. } | RequestError::OtherItems { .. } => ErrorKind::Conflict,
            RequestError::Internal(_) => ErrorKind::Internal,
            RequestError::UnknownExecution { .. } => ErrorKind::NotFound,
            RequestError::NoStore { .. }
            | RequestError::Store(_)
            | RequestError::Stored(_)
            | RequestError::NoModule { .. }
            | RequestError::Load(_)
            | RequestError::Closed => ErrorKind::Unavailable,
        }
    }
}
