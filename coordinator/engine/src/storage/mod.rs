//! Storage as the coordinator reaches it: object stores by URL, the places that queries may read, AWS's credentials, and the credentials that functions
//! are lent.

pub mod aws;
mod credentials;
mod reach;
mod stores;

pub use credentials::StoreCredentials;
pub use reach::Reach;
pub use stores::Stores;
