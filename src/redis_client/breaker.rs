//! When to stop asking Redis, and when to begin again: a pure state machine.
