"""From batches to weights.

config       settings; of single objectives: objective_settings
objectives/  what is learned, and the figure that says how well: separation, instruments
figure       which of two values of such a figure is better
device       precision, compilation, several workers
start        weights of another model to start from
gradients    from a batch to gradients, in parts that fit into memory
optimize     from gradients to weights
validation   the fixed validation set, and the figure on it
checkpoint   a training as it stands, in a folder
loop         all of it, in plain PyTorch
distribute   the loop inside Ray Train
measure      how long a step takes on this machine
"""
