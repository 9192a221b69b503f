"""Training: LoRA adapters on frozen weights, packed as they are served."""
