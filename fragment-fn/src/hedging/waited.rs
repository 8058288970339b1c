//! Mark of a read that is sent before it is needed.

use std::sync::Arc;

use object_store::Extensions;
use tokio::sync::SetOnce;

/// Mark that travels with a read in its options, and is set once somebody waits for the read.
///
/// A read without a mark is waited for from the beginning. Clones share the mark.
#[derive(Debug, Clone, Default)]
pub struct Waited(Arc<SetOnce<()>>);

impl Waited {
    /// Notes that somebody waits for the read. It may be noted more than once.
    pub fn set(&self) {
        // An error says that the mark was set before.
        let _ = self.0.set(());
    }

    /// Returns the extensions of a read that carries this mark.
    pub fn extensions(&self) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(self.clone());
        extensions
    }

    /// Waits until somebody waits for the read that carries `mark`.
    pub(super) async fn wait(mark: Option<&Self>) {
        if let Some(Self(is_set)) = mark {
            is_set.wait().await;
        }
    }
}
