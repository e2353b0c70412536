//! Local sensors and recordings: each source is one thread and one file.
