"""From batches to weights.

config       settings
loss         what is minimised
device       precision, compilation, several workers
gradients    from a batch to gradients, in parts that fit into memory
optimize     from gradients to weights
checkpoint   a training as it stands, in a folder
loop         all of it, in plain PyTorch
distribute   the loop inside Ray Train
measure      how long a step takes on this machine
"""
