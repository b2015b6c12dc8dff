"""A run on disk, and what is done with it: before (plan), while it lasts (parts, identity),
at its end (output), and afterwards (restore, shards, merge, verify)."""
