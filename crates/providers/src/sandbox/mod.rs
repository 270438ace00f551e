//! The sandbox upstream.
