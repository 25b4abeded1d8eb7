"""The Wave-U-Net of the paper, read as plainly as possible: what the fast network must equal.

Plain convolution, keep every second sample, interpolate, crop, concatenate; every query runs alone from the start,
and the context is evaluated at the time of every sample. It takes its weights from the network under test.
"""

import torch
import torch.nn.functional as F


def naive_forward(unet, mixture, values=None, first=0.0, step=1.0):
    """`mixture` [b c t], `values` [b s v d] with frame j at input sample first + j * step."""
    queries = 1 if values is None else values.shape[1]
    outputs = [
        _one_query(unet, mixture, None if values is None else values[:, query], first, step) for query in range(queries)
    ]
    return torch.cat(outputs, dim=1)


def _one_query(unet, mixture, values, first, step):
    config = unet.config
    valid = config.padding == "valid"
    positions = torch.arange(mixture.shape[-1], dtype=torch.float64)
    mixture = mixture * config.gain
    x, skips = mixture, []
    for level, layer in enumerate(unet.down):
        x, positions = _convolve(x, positions, layer.kernel, layer.bias, valid)
        x = _activate(unet, f"down{level}", x, positions, values, first, step)
        skips.append(x)
        x, positions = x[..., ::2], positions[::2]
    x, positions = _convolve(x, positions, unet.bottleneck.kernel, unet.bottleneck.bias, valid)
    x = _activate(unet, "bottleneck", x, positions, values, first, step)
    for level, layer in enumerate(unet.up):
        blend = torch.sigmoid(unet.blend[level])[:, None] if config.upsampling == "learned" else None
        x, positions = _upsample(x, positions, valid, blend)
        x = torch.cat([x, _crop(skips.pop(), x.shape[-1])], dim=1)
        x, positions = _convolve(x, positions, layer.kernel, layer.bias, valid)
        x = _activate(unet, f"up{level}", x, positions, values, first, step)
    heard = _crop(mixture, x.shape[-1])
    x = torch.cat([x, heard], dim=1)
    if config.site == "output":
        x = F.conv1d(x, unet.hidden.kernel, unet.hidden.bias)
        x = _activate(unet, "output", x, positions, values, first, step)
        x = torch.cat([x, heard], dim=1)
    x = F.conv1d(x, unet.head.kernel, unet.head.bias)
    x = config.gain * torch.tanh(x / config.gain) if config.output_activation == "tanh" else x
    x = x.unflatten(1, (-1, config.channels))
    if config.output_type == "difference":
        x = torch.cat([x, heard[:, None] - x.sum(1, keepdim=True)], dim=1)
    return x / config.gain


def _convolve(x, positions, kernel, bias, valid):
    half = kernel.shape[-1] // 2
    if valid:
        return F.conv1d(x, kernel, bias), positions[half:-half]
    return F.conv1d(x, kernel, bias, padding=half), positions


def _upsample(x, positions, valid, blend):
    spacing = (positions[1] - positions[0]) / 2 if len(positions) > 1 else None
    if valid and blend is None:
        out = F.interpolate(x, size=2 * x.shape[-1] - 1, mode="linear", align_corners=True)
    else:
        blend = 0.5 if blend is None else blend
        after = torch.cat([x[..., 1:], x[..., -1:]], dim=-1)
        out = torch.stack([x, blend * x + (1 - blend) * after], dim=-1).flatten(-2)
        out = out[..., :-1] if valid else out
    return out, positions[0] + spacing * torch.arange(out.shape[-1], dtype=torch.float64)


def _crop(x, samples):
    start = (x.shape[-1] - samples) // 2
    return x[..., start : start + samples]


def _activate(unet, name, x, positions, values, first, step):
    if values is not None and name in unet.conditions:
        context = _context_at(values, positions, first, step)
        x = _condition(unet.config.op, unet.conditions[name], x, context, values, positions, first, step)
    return F.leaky_relu(x, 0.2)


def _context_at(values, positions, first, step):
    """The context at each position, [b d t], by linear interpolation of frames."""
    frames = values.shape[1]
    columns = []
    for position in positions.tolist():
        place = min(max((position - first) / step, 0.0), frames - 1.0)
        low = min(int(place), max(frames - 2, 0))
        part = place - low
        columns.append((1 - part) * values[:, low] + part * values[:, min(low + 1, frames - 1)])
    return torch.stack(columns, dim=-1)


def _condition(op, module, x, context, values, positions, first, step):
    channels = x.shape[1]
    match op:
        case "add":
            return x + _times(module.shift.weight, context)
        case "multiply":
            return x * (1 + _times(module.gain.weight, context))
        case "film":
            weight = module.both.weight
            return x * (1 + _times(weight[:channels], context)) + _times(weight[channels:], context)
        case "concat":
            weight = torch.cat([module.mixing, module.shift.weight], dim=1)
            return _times(weight, torch.cat([x, context], dim=1))
        case "attention":
            return x + _attend(module, x, values, positions, first, step)


def _attend(module, x, values, positions, first, step):
    """Softmax over all frames and the null token; a frame's weight is the softmax's times its nearness in time."""
    frames = values.shape[1]
    place = ((positions - first) / step).clamp(0, frames - 1)
    nearness = (1 - (place[None] - torch.arange(frames, dtype=torch.float64)[:, None]).abs()).clamp(min=0)
    query = _times(module.query, x) / module.query.shape[0] ** 0.5
    keys = torch.cat([values @ module.key.T, module.null_key.expand(len(x), 1, -1)], dim=1)
    tokens = torch.cat([values @ module.value.T, module.null_value.expand(len(x), 1, -1)], dim=1)
    weights = torch.exp(torch.einsum("bvk,bkt->bvt", keys, query))
    weights = weights * torch.cat([nearness, torch.ones(1, len(positions), dtype=torch.float64)])
    weights = weights / weights.sum(1, keepdim=True)
    return torch.einsum("bvt,bvd->bdt", weights, tokens)


def _times(matrix, x):
    return torch.einsum("ed,bdt->bet", matrix, x)
