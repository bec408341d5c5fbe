//! Providers: capability sets, requests and the classification of replies.
