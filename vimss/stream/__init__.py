"""From shards to batches: read (tar files to clips), mix (clips to mixtures with their targets)."""
