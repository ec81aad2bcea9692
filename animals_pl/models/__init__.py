"""uint8 batch → logits: plain ``nn.Module`` nets."""
