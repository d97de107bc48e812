//! Cache-Control and its targeted forms as values (RFC 9111 §5.2, RFC 9213).
