"""From batches to weights.

config       settings; of single objectives: objective_settings
objectives/  the learning tasks, each with its figure
figure       compares two values of such a figure
device       precision, compilation, copies to a GPU
ddp          DistributedDataParallel
start        weights of another model to start from
gradients    from a batch to gradients, in parts that fit into memory
optimize     from gradients to weights
validation   the fixed validation set, and the figure on it
checkpoint   the state of a training, in a folder
loop         the training loop, in plain PyTorch
own_copy     the folder of a training, or a process's own copy of one at s3://
distribute   the loop inside Ray Train
measure      the seconds of a step on this machine
"""
