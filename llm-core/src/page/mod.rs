//! Diff codec for 4 KiB pages: scan, encode, decode, and batches of encoded pages.
