"""Will it fit: tokens, bytes of device memory and bytes on disk of a training run, by arithmetic alone (no torch)."""
