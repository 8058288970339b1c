//! Messages are read while a statement runs, so that the end of the connection is seen at once.

use std::sync::Arc;

use tokio::io::{AsyncRead, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::messages::{MESSAGE_BYTES_MAX, Malformed, Message, ReadError, read_body, read_head};

/// Bytes that a message takes at least while it waits to be answered.
const MESSAGE_ROOM_MIN: usize = 512;

/// Bytes of messages that wait to be answered. The end of a client behind more of them is not seen.
const ROOM: usize = MESSAGE_BYTES_MAX;

/// Message, and the room that it takes until it is answered.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) message: Result<Message, Malformed>,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// Reads messages in a task of its own, which ends with the receiver. The token is cancelled when the client goes.
pub(super) fn read(
    reader: impl AsyncRead + Unpin + Send + 'static,
    gone: CancellationToken,
) -> mpsc::Receiver<Received> {
    let (sender, receiver) = mpsc::channel(ROOM / MESSAGE_ROOM_MIN);
    drop(tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = read_all(BufReader::new(reader), &sender) => {}
        }
        gone.cancel();
    }));
    receiver
}

async fn read_all(mut reader: impl AsyncRead + Unpin, sender: &mpsc::Sender<Received>) {
    let room = Arc::new(Semaphore::new(ROOM));
    loop {
        let (kind, length) = match read_head(&mut reader, MESSAGE_BYTES_MAX).await {
            Ok(Some(head)) => head,
            Err(ReadError::Malformed(why)) => return refuse(sender, why).await,
            Ok(None) | Err(ReadError::Gone(_)) => return,
        };
        let needed = length.clamp(MESSAGE_ROOM_MIN, ROOM) as u32;
        let Ok(taken) = Arc::clone(&room).acquire_many_owned(needed).await else { return };
        let message = match read_body(&mut reader, kind, length).await {
            Ok(Message::Terminate) | Err(ReadError::Gone(_)) => return,
            Ok(message) => message,
            Err(ReadError::Malformed(why)) => return refuse(sender, why).await,
        };
        if sender.send(Received { message: Ok(message), room: Some(taken) }).await.is_err() {
            return;
        }
    }
}

/// Passes the fault on, and waits until the client was told.
async fn refuse(sender: &mpsc::Sender<Received>, why: Malformed) {
    if sender.send(Received { message: Err(why), room: None }).await.is_ok() {
        sender.closed().await;
    }
}
