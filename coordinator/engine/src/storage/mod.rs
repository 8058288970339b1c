//! Storage as the coordinator reaches it: object stores by URL, AWS's credentials, and the credentials that functions
//! are lent.

pub mod aws;
mod credentials;
mod stores;

pub use credentials::StoreCredentials;
pub use stores::Stores;
