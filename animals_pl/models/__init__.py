"""Nets: uint8 images (B, 3, S, S) → logits (B, C). Plain ``nn.Module`` classes."""
