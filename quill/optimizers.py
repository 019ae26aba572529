"""AdamW and Muon as one optimizer, with the loss scaling of float16."""

import torch


class Optimizers:
    """One or two of PyTorch's optimizers, and float16's scaler: all that a training step needs.

    The scaler multiplies the loss, so that gradients in float16 do not underflow, and skips a step
    whose gradients are infinite. For other dtypes it does nothing.
    """

    def __init__(self, optimizers, network):
        self.optimizers = optimizers
        device = next(network.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=network.dtype == torch.float16)

    def set_lr(self, factor):
        """Set every learning rate to its peak times a factor."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def scale(self, loss):
        """The loss whose gradients are to be computed."""
        return self.scaler.scale(loss)

    def unscale(self):
        """Divide the gradients by what scale() has multiplied them with."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)

    def step(self):
        """Move the parameters against their gradients."""
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self):
        """What load_state_dict() takes, as plain values and tensors."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"optimizers": states, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, saved):
        """Put the averages back. Learning rates, betas and weight decay are those of this run."""
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
        if self.scaler.is_enabled() and saved["scaler"]:  # empty if it was not float16 until now
            self.scaler.load_state_dict(saved["scaler"])
