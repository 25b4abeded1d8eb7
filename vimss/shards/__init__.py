"""From a corpus on disk to shards: recipe (what), corpora (readers), write (tar files and their manifest)."""
