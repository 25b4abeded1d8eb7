"""From batches to weights: config (settings), loss, checkpoint, loop (plain PyTorch), distribute (Ray Train)."""
