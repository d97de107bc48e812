//! What lies in `deploy/` fits the code.
