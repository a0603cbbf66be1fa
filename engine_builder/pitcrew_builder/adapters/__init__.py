"""LoRA adapters, as the PEFT library saves them, merged into a network's weights."""
