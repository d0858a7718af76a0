"""The original and the compressed network side by side: what each layer must give, and refitting it."""
