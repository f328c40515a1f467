//! Framing over any byte stream.
