"""From shards to batches: read (tar files to clips), stems (one player in a window), mix (clips to mixtures), batch."""
