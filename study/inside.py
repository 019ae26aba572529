"""What each part of a network computes in one forward pass."""

import torch


@torch.no_grad()
def outputs_of_parts(network, idx):
    """Return {name of a module: its output} in one forward pass of idx (B, T)."""
    outputs, hooks = {}, []
    for name, module in network.named_modules():

        def keep(module, inputs, output, name=name):
            outputs[name] = output

        hooks.append(module.register_forward_hook(keep))
    network(idx)
    for hook in hooks:
        hook.remove()
    return outputs


def attention_weights(network, idx):
    """The attention weights of every head in every layer: (n_layer, n_head, T, T).

    Row t has the weights with which position t looks at positions 0 to t; each row sums to 1.
    idx: (1, T). network: a GPT in eval mode on the CPU, where attention is written out; PyTorch's
    fused kernel never stores these weights.
    """
    outputs = outputs_of_parts(network, idx)
    names = [f"blocks.{i}.attention.attention_dropout" for i in range(network.config.n_layer)]
    return torch.cat([outputs[name] for name in names])  # n_layer x (1, n_head, T, T)


def telling_heads(network, windows):
    """Print and return two heads as (layer, head), from 0: on average over windows (B, T), the one
    that looks most at the character before, and the one that looks furthest back."""
    weights = sum(attention_weights(network, idx[None]) for idx in windows) / len(windows)
    positions = torch.arange(windows.shape[1])  # (T,)
    distances = (positions[:, None] - positions).float()  # (T, T), from each to each
    # The first character of a window has none before it.
    before = weights.diagonal(-1, dim1=2, dim2=3).mean(dim=2)  # (n_layer, n_head)
    distance = (weights * distances).sum(dim=3)[:, :, 1:].mean(dim=2)  # (n_layer, n_head)
    near, far = (divmod(int(habit.argmax()), habit.shape[1]) for habit in (before, distance))
    print(f"{name_of(*near)}: a weight of {before[near]:.2f} on the character before, on average")
    print(f"{name_of(*far)}: {distance[far]:.2f} characters back, on average")
    return [near, far]


def name_of(layer, head):
    """A head in words, counted from 1."""
    return f"layer {layer + 1}, head {head + 1}"
