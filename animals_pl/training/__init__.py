"""Training: LightningModule, losses, optimizers, runs, checkpoints."""
