//! What does not go into journals, and journals that no server has written.

use super::restart::{FRAGMENTS, begun_where, ended, files, place, place_with, serve, submit, sums};
use crate::bad_input::wait_until;

/// A text that is not wanted on the server's disk is not wanted in a bucket either.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_history_has_no_journals() {
    let place = place_with("exchange", "[history]\nenabled = false\n", "").await;
    let server = serve(&place);
    let (id, _) = begun_where(&server, &sums(), FRAGMENTS / 2, |_| true);
    assert_eq!(files(&place.path("exchange/journals")), Vec::<String>::new());
    assert_eq!(ended(&server, &id)["state"], "SUCCEEDED");
    server.is_well();
}

/// The entries are holes in files: no disk has so many bytes, and no memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_without_end_is_not_read() {
    let place = place("").await;
    let folder = place.path("exchange/journals");
    let ids = [0, 7, u32::MAX].map(|last| {
        let id = format!("019a{last:028x}");
        std::fs::create_dir_all(folder.join(&id)).expect("made");
        let entry = std::fs::File::create(folder.join(&id).join(format!("{last:06}"))).expect("made");
        entry.set_len(1 << 42).expect("a hole");
        id
    });
    let server = serve(&place);
    for id in &ids {
        assert_eq!(server.curl(&format!("/v1/statements/{id}"), &[]).status, 404, "{id}");
    }
    // Its own are kept beside them.
    let own = submit(&server, &sums());
    wait_until("its journal has work", || !files(&folder.join(&own)).is_empty());
    assert_eq!(ended(&server, &own)["state"], "SUCCEEDED");
    wait_until("its own is gone, and they are left alone", || files(&folder).len() == 3);
    server.is_well();
}
