//! The published vectors of `tests/vectors/` against the code.
