//! Owns the frames on the socket and their bounds. Knows nothing of what the messages in them say.
//!
//! A frame is two numbers of four bytes, the highest first: the length of a protobuf message and the
//! length of the bodies that follow it, one behind the other. Bodies are no part of the message, so that
//! they are not copied, and so that what a message may unfold to in memory is bounded.

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest message of a greeting.
pub(super) const GREETING: usize = 1 << 10;

/// The longest message of a call: a batch of some ten thousand records without bodies. In memory it
/// may unfold to a hundred times that.
pub(super) const CALL: usize = 4 << 20;

/// The longest message of an answer: a page of some ten thousand records without bodies.
pub(super) const ANSWER: usize = 32 << 20;

/// The most bytes of bodies in one frame, and the largest body.
pub(super) const BODIES: usize = 1 << 30;

/// How much is made ready for bytes that are only announced.
const READY: usize = 64 << 10;

/// One frame.
pub(super) struct Frame {
    pub(super) message: Bytes,
    pub(super) bodies: Vec<Bytes>,
}

impl Frame {
    /// Returns the frame of a message and the bodies that belong to it; none where it is too long.
    pub(super) fn new(message: &impl Message, bodies: Vec<Bytes>, most: usize) -> Option<Self> {
        let bytes: usize = bodies.iter().map(Bytes::len).sum();
        let fits = message.encoded_len() <= most && bytes <= BODIES;
        fits.then(|| Self { message: message.encode_to_vec().into(), bodies })
    }

    pub(super) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let bodies: usize = self.bodies.iter().map(Bytes::len).sum();
        let length = |bytes: usize| u32::try_from(bytes).map_err(std::io::Error::other);
        to.write_u32(length(self.message.len())?).await?;
        to.write_u32(length(bodies)?).await?;
        to.write_all(&self.message).await?;
        for body in &self.bodies {
            to.write_all(body).await?;
        }
        to.flush().await
    }
}

/// The lengths that a frame announces.
pub(super) struct Lengths {
    message: usize,
    pub(super) bodies: usize,
}

impl Lengths {
    /// Reads the next frame's lengths; none at the end.
    pub(super) async fn read(
        from: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> std::io::Result<Option<Self>> {
        let message = match from.read_u32().await {
            Ok(length) => length as usize,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let bodies = from.read_u32().await? as usize;
        if message > most || bodies > BODIES {
            let why = format!("a frame of {message} and {bodies} bytes is longer than {most} and {BODIES}");
            return Err(std::io::Error::other(why));
        }
        Ok(Some(Self { message, bodies }))
    }

    /// Reads what they announce: the message, and all bodies as one.
    pub(super) async fn read_rest(
        self,
        from: &mut (impl AsyncRead + Unpin),
    ) -> std::io::Result<(Bytes, Bytes)> {
        Ok((exactly(from, self.message).await?, exactly(from, self.bodies).await?))
    }
}

/// Reads so many bytes. Memory grows as they come, not as they were announced.
async fn exactly(from: &mut (impl AsyncRead + Unpin), length: usize) -> std::io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(length.min(READY));
    if from.take(length as u64).read_to_end(&mut bytes).await? < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes.into())
}
