//! `proxy.yaml`: raw (the YAML's mirror) → compile (every problem at once) → [`Settings`].
//!
//! YAML types end at this room's door. Nothing here opens a socket.

pub mod settings;

pub use settings::Settings;
