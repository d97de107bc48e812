//! Which part of a stored body a Range asks for (RFC 9110 §14).
